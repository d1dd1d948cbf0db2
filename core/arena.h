#pragma once
// Arena: one run of zeroed memory, from the operating system (2 MiB aligned and offered to huge pages) or from a
// device. Nothing in it is ever given back before the end, so that a step touches no page for the first time twice.

#include <cstddef>

#include "kernels/device.h"

namespace capstan {

class Arena {
 public:
  Arena() = default;
  /// Throws Error(config) with the size asked for when the system or the device refuses it. The device outlives it.
  explicit Arena(size_t bytes, kernels::DeviceRuntime* device = nullptr);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
  kernels::DeviceRuntime* device_ = nullptr;
};

}  // namespace capstan
