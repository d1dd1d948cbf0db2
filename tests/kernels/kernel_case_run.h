#pragma once
// Runs one stage of a kernel case in guarded memory. Every buffer and the scratch have 64 bytes of pattern in front and
// behind; outputs and scratch are filled with NaN before the call. After it guards and inputs must be untouched. Where
// a backend computes in memory of a device, guards and all lie there during the call.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "tests/kernels/kernel_backends.h"
#include "tests/kernels/kernel_case.h"

namespace capstan::kernels::testing {

class GuardedBuffer {
 public:
  /// Contents begin `shift` bytes after an address that all types are aligned to.
  explicit GuardedBuffer(size_t bytes, DeviceRuntime* device = nullptr, size_t shift = 0)
      : bytes_(bytes), storage_(bytes + 3 * kGuard + shift, kPattern), shift_(shift), device_(device) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    start_ = (address + kGuard - 1) / kGuard * kGuard + kGuard - address + shift;
    std::memset(data(), 0xff, bytes_);  // NaN in every floating dtype
    if (device_ != nullptr) there_ = static_cast<uint8_t*>(device_->allocate(bytes_ + 2 * kGuard + shift));
  }
  ~GuardedBuffer() {
    if (device_ != nullptr) device_->release(there_);
  }
  GuardedBuffer(GuardedBuffer&& other) noexcept  // a moved vector keeps its address
      : bytes_(other.bytes_),
        storage_(std::move(other.storage_)),
        start_(other.start_),
        shift_(other.shift_),
        device_(std::exchange(other.device_, nullptr)),
        there_(other.there_) {}
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  /// Contents, to be read and written here.
  uint8_t* data() { return storage_.data() + start_; }
  /// What a kernel is told.
  void* address() { return device_ != nullptr ? there_ + kGuard + shift_ : data(); }
  void send() {
    if (device_ == nullptr) return;
    device_->copy_in(there_ + shift_, data() - kGuard, bytes_ + 2 * kGuard, device_->main_stream());
    device_->finish(device_->main_stream());
  }
  void fetch_back() {
    if (device_ == nullptr) return;
    device_->copy_out(data() - kGuard, there_ + shift_, bytes_ + 2 * kGuard, device_->main_stream());
    device_->finish(device_->main_stream());
  }
  std::vector<uint8_t> contents() const {
    const auto begin = storage_.begin() + static_cast<std::ptrdiff_t>(start_);
    return {begin, begin + static_cast<std::ptrdiff_t>(bytes_)};
  }
  bool guards_intact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (storage_[start_ - 1 - i] != kPattern || storage_[start_ + bytes_ + i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr uint8_t kPattern = 0xa5;
  size_t bytes_;
  std::vector<uint8_t> storage_;
  size_t start_ = 0, shift_;
  DeviceRuntime* device_;
  uint8_t* there_ = nullptr;  // guard, contents, guard
};

inline void put(void* to, size_t i, DType dtype, double value) {
  switch (dtype) {
    case DType::f64:
      static_cast<double*>(to)[i] = value;
      break;
    case DType::f32:
      static_cast<float*>(to)[i] = static_cast<float>(value);
      break;
    case DType::bf16:
      static_cast<BFloat16*>(to)[i] = BFloat16(static_cast<float>(value));
      break;
    case DType::f16:
      static_cast<Float16*>(to)[i] = Float16(static_cast<float>(value));
      break;
    default:
      static_cast<int32_t*>(to)[i] = static_cast<int32_t>(value);
  }
}

inline double fetch(const void* from, size_t i, DType dtype) {
  switch (dtype) {
    case DType::f64:
      return static_cast<const double*>(from)[i];
    case DType::f32:
      return static_cast<const float*>(from)[i];
    case DType::bf16:
      return static_cast<float>(static_cast<const BFloat16*>(from)[i]);
    case DType::f16:
      return static_cast<float>(static_cast<const Float16*>(from)[i]);
    default:
      return static_cast<const int32_t*>(from)[i];
  }
}

/// What values become when stored as `dtype`.
inline std::vector<double> rounded(const std::vector<double>& values, DType dtype) {
  std::vector<double> result = values;
  for (double& v : result) {
    uint64_t cell = 0;
    put(&cell, 0, dtype, v);
    v = fetch(&cell, 0, dtype);
  }
  return result;
}

struct RunOptions {
  bool accumulate = false;
  std::pair<std::string, std::string> alias;  ///< (output, input) that share memory
  bool shifted = false;                       ///< fields begin one element after a 64-byte boundary
};

struct RunResult {
  std::map<std::string, std::vector<uint8_t>> bytes;
  Values values;
};

/// Contents of an accumulating output before an accumulating call.
inline std::vector<double> start_of(const Field& field) {
  return random_values("start of " + field.name, static_cast<int64_t>(field.values.size()));
}

inline RunResult run_stage(const Stage& stage, const Backend& backend, DType dtype, const Values& inputs,
                           const RunOptions& options = {}) {
  std::map<std::string, GuardedBuffer> memory;
  Bindings at;
  DeviceRuntime* const device = device_of(backend);
  const auto make = [&](const Field& field, const std::vector<double>* values) {
    const DType type = dtype_of(field.kind, dtype);
    GuardedBuffer buffer((values ? values->size() : field.values.size()) * bytes_of(type), device,
                         options.shifted ? bytes_of(type) : 0);
    for (size_t i = 0; values && i < values->size(); ++i) put(buffer.data(), i, type, (*values)[i]);
    buffer.send();
    memory.erase(field.name);
    at.set(field.name, memory.emplace(field.name, std::move(buffer)).first->second.address());
  };
  for (const Field& field : stage.inputs) make(field, &inputs.at(field.name));
  for (const Field& field : stage.outputs) {
    const std::vector<double> start = start_of(field);
    if (field.name == options.alias.first) {
      at.set(field.name, memory.at(options.alias.second).address());
    } else if (!field.starts_as.empty()) {
      make(field, &inputs.at(field.starts_as));
    } else {
      make(field, options.accumulate && field.accumulates ? &start : nullptr);
    }
  }
  std::map<std::string, std::vector<uint8_t>> before;
  for (const Field& field : stage.inputs) before[field.name] = memory.at(field.name).contents();
  GuardedBuffer scratch(stage.scratch ? stage.scratch(backend, dtype) : 0, device);
  scratch.send();

  stage.run({backend, dtype, at, options.accumulate, scratch.address()});

  scratch.fetch_back();
  for (auto& [name, buffer] : memory) buffer.fetch_back();
  EXPECT_TRUE(scratch.guards_intact()) << "wrote outside its scratch";
  for (const auto& [name, buffer] : memory) EXPECT_TRUE(buffer.guards_intact()) << "wrote outside " << name;
  for (const Field& field : stage.inputs) {
    if (field.name == options.alias.second) continue;
    EXPECT_TRUE(memory.at(field.name).contents() == before[field.name]) << "wrote into its input " << field.name;
  }
  RunResult result;
  for (const Field& field : stage.outputs) {
    GuardedBuffer& buffer = memory.at(field.name == options.alias.first ? options.alias.second : field.name);
    result.bytes[field.name] = buffer.contents();
    std::vector<double>& values = result.values[field.name];
    for (size_t i = 0; i < field.values.size(); ++i) {
      values.push_back(fetch(buffer.data(), i, dtype_of(field.kind, dtype)));
    }
  }
  return result;
}

/// ||got - want|| <= tolerance max(||want||, floor sqrt(n)), and no element off by more than 8 of that of the largest.
/// NaN stands for unwritten, infinities must be the same.
inline void expect_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                         double floor, const std::string& label) {
  ASSERT_EQ(got.size(), want.size()) << label;
  double error = 0, norm = 0, worst = 0, largest = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(want[i])) {
      ASSERT_TRUE(std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i])
          << label << "[" << i << "]: got " << got[i] << ", want " << want[i];
      continue;
    }
    ASSERT_TRUE(std::isfinite(got[i])) << label << "[" << i << "]: got " << got[i] << ", want " << want[i];
    const double off = std::fabs(got[i] - want[i]);
    error += off * off;
    norm += want[i] * want[i];
    largest = std::max(largest, std::fabs(want[i]));
    if (off > worst) worst = off, worst_at = i;
  }
  const double limit = tolerance * std::max(std::sqrt(norm), floor * std::sqrt(static_cast<double>(want.size())));
  EXPECT_LE(std::sqrt(error), limit) << label << ": norm of the error; worst at [" << worst_at << "]: got "
                                     << got[worst_at] << ", want " << want[worst_at];
  EXPECT_LE(worst, 8 * tolerance * std::max(largest, floor))
      << label << "[" << worst_at << "]: got " << got[worst_at] << ", want " << want[worst_at];
}

}  // namespace capstan::kernels::testing
