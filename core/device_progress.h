#pragma once
// DeviceProgress: how far a device has come in what the host queued for it. Behind a stretch of work the host puts a
// running number into the stream of computation; the device writes it into pinned memory as it comes past, and any
// thread may look at it without a call to the device, which may hang.
// Rule: one thread marks and closes; passed() is for any.

#include <cstdint>
#include <mutex>

#include "kernels/device.h"

namespace capstan {

class DeviceProgress {
 public:
  explicit DeviceProgress(kernels::DeviceRuntime& device);
  ~DeviceProgress();
  DeviceProgress(const DeviceProgress&) = delete;
  DeviceProgress& operator=(const DeviceProgress&) = delete;

  /// Queues the next number behind what the stream of computation holds, and returns it; the first is 1.
  uint64_t mark();
  /// The last number that the device has come past.
  uint64_t passed() const;
  /// Before the device goes, or memory that it still uses: from here on nothing counts as under way.
  void close() noexcept;

 private:
  kernels::DeviceRuntime& device_;
  mutable std::mutex mutex_;  ///< held for a look and for giving the memory back
  uint64_t* number_;          ///< pinned; null: closed
  uint64_t marked_ = 0;
};

}  // namespace capstan
