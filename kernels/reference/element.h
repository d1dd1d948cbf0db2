#pragma once
// What the reference loops know about element types: how to load into and store from the type in which arithmetic is
// done (double for double; float for float, BFloat16 and Float16), and how a dtype, a value, becomes a template
// argument once per call. A double stored as one of the halves goes through a float rounded to odd, so that it is
// rounded to nearest even once.

#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/types.h"

namespace capstan::kernels::reference {

template <typename T>
struct AccumulationOf {
  using type = float;
};
template <>
struct AccumulationOf<double> {
  using type = double;
};
/// The type of sums, statistics and parameter gradients of tensors of T.
template <typename T>
using Accumulation = typename AccumulationOf<T>::type;

inline double load(double x) { return x; }
inline float load(float x) { return x; }
inline float load(BFloat16 x) { return static_cast<float>(x); }
inline float load(Float16 x) { return static_cast<float>(x); }

/// x as float with the last bit set when anything was cut off: a later rounding to fewer bits is then the only one.
inline float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || !std::isfinite(nearest)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(x)) --bits;  // back to the truncated value
  return std::bit_cast<float>(bits | 1u);
}

inline void store(double& y, double x) { y = x; }
inline void store(float& y, double x) { y = static_cast<float>(x); }
inline void store(float& y, float x) { y = x; }
inline void store(BFloat16& y, float x) { y = BFloat16(x); }
inline void store(BFloat16& y, double x) { y = BFloat16(round_to_odd(x)); }
inline void store(Float16& y, float x) { y = Float16(x); }
inline void store(Float16& y, double x) { y = Float16(round_to_odd(x)); }
inline void store(double& y, float x) { y = static_cast<double>(x); }

template <typename T>
const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <typename T>
T* out(void* p) {
  return static_cast<T*>(p);
}

/// Calls f(T{}) with the element type of dtype; throws where the reference has no such element.
template <typename F>
void with_element(DType dtype, const char* kernel, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::f16:
      return f(Float16{});
    default:
      throw std::invalid_argument(
          std::string(kernel) + ": the reference backend computes in f64, f32, bf16 and f16, not in " + name_of(dtype));
  }
}

}  // namespace capstan::kernels::reference
