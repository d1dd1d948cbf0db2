#include "core/device_progress.h"

#include <atomic>
#include <utility>

namespace capstan {

DeviceProgress::DeviceProgress(kernels::DeviceRuntime& device)
    : device_(device), number_(static_cast<uint64_t*>(device.allocate_pinned(sizeof(uint64_t)))) {}

DeviceProgress::~DeviceProgress() { close(); }

uint64_t DeviceProgress::mark() {
  device_.write_number(number_, marked_ + 1, device_.main_stream());
  return ++marked_;
}

uint64_t DeviceProgress::passed() const {
  const std::lock_guard lock(mutex_);
  return number_ != nullptr ? std::atomic_ref(*number_).load(std::memory_order_acquire) : marked_;
}

void DeviceProgress::close() noexcept {
  uint64_t* number = nullptr;
  {
    const std::lock_guard lock(mutex_);
    number = std::exchange(number_, nullptr);
  }
  if (number != nullptr) device_.release_pinned(number);
}

}  // namespace capstan
