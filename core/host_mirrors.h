#pragma once
// HostMirrors: how the host reads and writes small tensors of a plan that lie in a device's memory (inputs of a step,
// scalars, reports). Each has two buffers in pinned memory: one may be on its way to the device while the host fills
// the other. What was written is queued by upload() in front of the work that reads it.

#include <array>
#include <map>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace capstan {

class HostMirrors {
 public:
  explicit HostMirrors(kernels::DeviceRuntime& device) : device_(device) {}
  ~HostMirrors();
  HostMirrors(const HostMirrors&) = delete;
  HostMirrors& operator=(const HostMirrors&) = delete;

  /// Takes the buffers of the tensor at `device`, unless they are there.
  void reserve(void* device, size_t bytes) { (void)of(device, bytes); }
  /// Room for all of the tensor, which the caller fills before the next upload(); what it holds is undefined unless it
  /// was written since the last one. Waits for the upload before the last, if that is still under way.
  void* write(void* device, size_t bytes);
  /// What the tensor holds when all that was queued and written is done; the host waits for it. Good until the next
  /// write.
  const void* read(void* device, size_t bytes);
  void upload();
  /// Pinned memory for one copy at a time, kept for the next.
  void* stage(size_t bytes);
  size_t bytes() const { return bytes_ + stage_bytes_; }

 private:
  struct Mirror {
    void* device = nullptr;
    size_t bytes = 0;
    std::array<void*, 2> host{};
    std::array<kernels::Event, 2> sent{};
    int now = 0;
    bool written = false;
  };
  Mirror& of(void* device, size_t bytes);

  kernels::DeviceRuntime& device_;
  std::map<std::pair<void*, size_t>, Mirror> mirrors_;  ///< by address on the device and bytes: views may overlap
  std::vector<Mirror*> written_;
  size_t bytes_ = 0;
  void* stage_ = nullptr;
  size_t stage_bytes_ = 0;
};

}  // namespace capstan
