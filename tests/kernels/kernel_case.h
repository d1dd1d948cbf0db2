#pragma once
// A kernel case says once what a kernel is called with: named fields, the call, an independent formula, what may alias.
// kernel_case_suite.h uses each case four ways (formula, gradient, every backend against the reference, repeatability).
// Rules: the cotangent of output "y" is the backward input "d_y"; an input that is NaN is a gap which the kernel may
// not use; an output that the reference leaves unwritten (gaps between strided rows) no backend may write either.

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace capstan::kernels::testing {

/// The dtype of a field relative to the dtype T that a case is run in.
enum class Kind { element, accumulation, f64, f32, bf16, f16, i32 };

inline DType dtype_of(Kind kind, DType t) {
  switch (kind) {
    case Kind::element:
      return t;
    case Kind::accumulation:
      return accumulation_of(t);
    case Kind::f64:
      return DType::f64;
    case Kind::f32:
      return DType::f32;
    case Kind::bf16:
      return DType::bf16;
    case Kind::f16:
      return DType::f16;
    case Kind::i32:
      break;
  }
  return DType::i32;
}

/// Values of fields by name; doubles hold every element type exactly.
using Values = std::map<std::string, std::vector<double>>;

struct Field {
  std::string name;
  Kind kind = Kind::element;
  std::vector<double> values = {};            ///< inputs: contents; outputs: only the size counts
  bool accumulates = false;                   ///< outputs: added to when the call accumulates
  std::string starts_as = {};                 ///< outputs: holds a copy of this input before the call (in place)
  std::vector<std::string> gradient_of = {};  ///< outputs of a backward: the inputs whose gradient this is
  double floor = 0.0;  ///< errors are relative to max(norm, floor sqrt(size)): results of cancellation
};

/// Addresses of all fields of a call by name; null for a field that the case does not have.
class Bindings {
 public:
  void set(const std::string& name, void* address) { at_[name] = address; }
  void* at(const std::string& name) const {
    const auto found = at_.find(name);
    return found == at_.end() ? nullptr : found->second;
  }
  template <typename T>
  T* get(const std::string& name) const {
    return static_cast<T*>(at(name));
  }

 private:
  std::map<std::string, void*> at_;
};

struct Call {
  const Backend& backend;
  DType dtype;
  const Bindings& at;
  bool accumulate;
  void* scratch;
};

/// One kernel call. An alias is a pair (output, input) that may share memory.
struct Stage {
  std::vector<Field> inputs;
  std::vector<Field> outputs;
  std::function<size_t(const Backend&, DType)> scratch;
  std::function<void(const Call&)> run;
  std::vector<std::pair<std::string, std::string>> aliases;
};

struct KernelCase {
  std::string name;
  Stage forward;
  Stage backward;                                ///< run is empty: no backward
  std::function<Values(const Values&)> formula;  ///< outputs of forward, written independently, in double
  bool exact = false;                            ///< backends must equal the reference in the same dtype bit for bit
  bool needs_f64 = false;                        ///< only for backends that compute in f64
  bool any_alignment = false;                    ///< fields need no more than the alignment of their elements
  bool needs_f16 = false;                        ///< only for backends that compute in f16
  bool needs_training_products = false;          ///< not for those that fuse none (kernels/matmul.h)
  double formula_tolerance = 1e-12;
  double loosen = 1.0;  ///< factor on the tolerances of f32, bf16 and f16
};

inline void PrintTo(const KernelCase& c, std::ostream* to) { *to << c.name; }

/// An input of a backward that is an input or a result of the forward.
inline Field saved(const std::string& name, Kind kind = Kind::element) { return {.name = name, .kind = kind}; }

inline std::vector<double> sized(int64_t count) { return std::vector<double>(static_cast<size_t>(count), 0.0); }

/// Uniform in [-scale, scale), the same for the same name; the bits are Philox words.
inline std::vector<double> random_values(const std::string& name, int64_t count, double scale = 1.0) {
  std::vector<double> values(static_cast<size_t>(count));
  const uint64_t key = std::hash<std::string>{}(name);
  for (size_t i = 0; i < values.size(); ++i) {
    const double high = philox_word(key, 7, 2 * i), low = philox_word(key, 7, 2 * i + 1);
    values[i] = scale * ((high + low * 0x1p-32) * 0x1p-31 - 1.0);
  }
  return values;
}

/// Rounded to sixteenths: sums of two such values below 8 are exact in bf16, so a backend may round them or not.
inline std::vector<double> coarse(std::vector<double> values) {
  for (double& v : values) v = std::round(v * 16) / 16;
  return values;
}

/// Random integers in [0, limit).
inline std::vector<double> random_ids(const std::string& name, int64_t count, int64_t limit) {
  std::vector<double> values(static_cast<size_t>(count));
  const uint64_t key = std::hash<std::string>{}(name);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<double>(philox_word(key, 9, i) % static_cast<uint32_t>(limit));
  }
  return values;
}

}  // namespace capstan::kernels::testing
