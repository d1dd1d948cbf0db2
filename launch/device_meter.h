#pragma once
// DeviceMeter: what a GPU does while it trains (memory, clock, temperature, power, why its clock is held down), as
// values of the run log. Asking takes a fraction of a millisecond, so it is done at most once a second; lines between
// have none. Numbers that the device does not tell are left out.

#include <chrono>
#include <functional>

#include "io/run_log.h"
#include "kernels/device.h"

namespace capstan {

class DeviceMeter {
 public:
  using Clock = std::chrono::steady_clock;
  DeviceMeter() = default;  ///< of a rank without a device: adds nothing
  explicit DeviceMeter(std::function<kernels::DeviceState()> ask) : ask_(std::move(ask)) {}

  void add_to(MetricsLine& line, Clock::time_point now = Clock::now());

 private:
  std::function<kernels::DeviceState()> ask_;
  Clock::time_point next_{};
};

}  // namespace capstan
