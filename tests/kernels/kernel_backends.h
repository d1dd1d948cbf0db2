#pragma once
// The backends under test, by what a test program is linked with: the reference and the CPU backend under each
// instruction set this machine has (kernel_backends_host.cpp), or the CUDA backend, emulated or on a device
// (kernel_backends_cuda.cpp). Tests call kernels with addresses of BackendMemory, or of Mirror where they keep their
// data on the host; streams are set behind the table's back.

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/device.h"

namespace capstan::kernels::testing {

/// What this program tests.
std::vector<Backend> all_backends();

/// The device whose memory a backend's kernels want; null where that is the host's.
DeviceRuntime* device_of(const Backend& backend);

inline constexpr const char* kInstructionSets[] = {"sse4", "avx2", "avx512", "avx512_bf16"};

inline std::vector<Backend> cpu_backends() {
  std::vector<Backend> backends;
  for (const char* name : kInstructionSets) {
    try {
      backends.push_back(cpu_backend(name));
    } catch (const std::invalid_argument&) {
      // this processor lacks it
    }
  }
  return backends;
}

/// Memory where a backend computes, without contents.
class BackendMemory {
 public:
  BackendMemory(const Backend& backend, size_t bytes) : device_(device_of(backend)) {
    if (device_ != nullptr) {
      at_ = device_->allocate(bytes + 1);
    } else {
      host_ = std::make_unique<char[]>(bytes + 1);
      at_ = host_.get();
    }
  }
  ~BackendMemory() {
    if (device_ != nullptr) device_->release(at_);
  }
  BackendMemory(BackendMemory&& other) noexcept
      : device_(std::exchange(other.device_, nullptr)), host_(std::move(other.host_)), at_(other.at_) {}
  BackendMemory(const BackendMemory&) = delete;
  void* at() const { return at_; }

 private:
  DeviceRuntime* device_;
  std::unique_ptr<char[]> host_;
  void* at_;
};

/// Host arrays as a backend sees them: add() tells an array, move() turns an address inside one into the backend's,
/// back() brings home what kernels wrote. On the host nothing is done.
class Mirror {
 public:
  explicit Mirror(const Backend& backend) : backend_(backend), device_(device_of(backend)) {}

  void add(const void* host, size_t bytes) {
    if (device_ == nullptr || bytes == 0) return;
    arrays_.push_back({static_cast<const char*>(host), bytes, BackendMemory(backend_, bytes)});
    device_->copy_in(arrays_.back().memory.at(), host, bytes, device_->main_stream());
    device_->finish(device_->main_stream());
  }
  template <typename T>
  void add(const std::vector<T>& values) {
    add(values.data(), values.size() * sizeof(T));
  }
  template <typename T>
  void move(T*& address) const {
    const char* at = reinterpret_cast<const char*>(address);
    for (const Array& a : arrays_) {
      if (at < a.host || at >= a.host + a.bytes) continue;
      address = reinterpret_cast<T*>(static_cast<char*>(a.memory.at()) + (at - a.host));
      return;
    }
    if (device_ != nullptr) address = nullptr;  // empty arrays
  }
  void back() {
    for (const Array& a : arrays_) {
      device_->copy_out(const_cast<char*>(a.host), a.memory.at(), a.bytes, device_->main_stream());
      device_->finish(device_->main_stream());
    }
  }

 private:
  struct Array {
    const char* host;
    size_t bytes;
    BackendMemory memory;
  };
  const Backend& backend_;
  DeviceRuntime* device_;
  std::vector<Array> arrays_;
};

}  // namespace capstan::kernels::testing
