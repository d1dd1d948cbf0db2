#pragma once
// What the driver's management library tells of a device while it works: clocks, heat, power, why a clock is held down.
// libnvidia-ml is loaded by name when there is one; without it everything is "not told".

#include <memory>
#include <string>

#include "kernels/device.h"

namespace capstan::kernels::cuda {

class DeviceMonitor {
 public:
  virtual ~DeviceMonitor() = default;
  /// Fills all but the memory in use.
  virtual void fill(DeviceState& state) const = 0;
};

/// pci_bus_id: "0000:1b:00.0". Null where the library, or this device in it, is not there.
std::unique_ptr<DeviceMonitor> open_device_monitor(const std::string& pci_bus_id);

/// The words for a set of the library's reasons; empty when the clock is free or the device idles.
std::string throttle_reasons(unsigned long long reasons);

}  // namespace capstan::kernels::cuda
