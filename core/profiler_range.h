#pragma once
// ProfilerRange: names what is queued while it lives, for profilers of the device (NVTX). On the host it is one branch;
// with no profiler listening a range is two calls through a null table of NVTX. Nothing is allocated.

#include <string_view>

#include "kernels/device.h"

namespace capstan {

class ProfilerRange {
 public:
  /// runtime may be null; the name is cut to 63 characters.
  ProfilerRange(kernels::DeviceRuntime* runtime, std::string_view name) : runtime_(runtime) {
    if (runtime_ == nullptr) return;
    char text[64];
    text[name.copy(text, sizeof text - 1)] = '\0';
    runtime_->push_range(text);
  }
  ~ProfilerRange() {
    if (runtime_ != nullptr) runtime_->pop_range();
  }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  kernels::DeviceRuntime* runtime_;
};

}  // namespace capstan
