#include "core/arena.h"

#include <sys/mman.h>

#include <utility>

#include "core/error.h"

namespace capstan {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Arena::Arena(size_t bytes, kernels::DeviceRuntime* device)
    : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage), device_(device) {
  if (bytes_ == 0) return;
  if (device_ != nullptr) {
    try {
      data_ = static_cast<char*>(device_->allocate(bytes_));
    } catch (const kernels::OutOfDeviceMemory& e) {
      throw Error::make(ExitCode::config,
                        "{}; lower train.microbatch, set layout.recompute or divide the model further", e.what());
    }
    return;
  }
  // Over-allocate by one huge page, then give back what lies outside the aligned run.
  void* map =
      mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED)
    throw Error::make(ExitCode::config,
                      "the system refuses {:.1f} MiB for the plan; lower train.microbatch or set layout.recompute",
                      static_cast<double>(bytes_) / (1 << 20));
  char* start = static_cast<char*>(map);
  const size_t skip = (kHugePage - reinterpret_cast<size_t>(start) % kHugePage) % kHugePage;
  if (skip > 0) munmap(start, skip);
  munmap(start + skip + bytes_, kHugePage - skip);
  data_ = start + skip;
  madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: a kernel without huge pages works as well
}

Arena::~Arena() {
  if (data_ == nullptr) return;
  if (device_ != nullptr)
    device_->release(data_);
  else
    munmap(data_, bytes_);
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), device_(other.device_) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

}  // namespace capstan
