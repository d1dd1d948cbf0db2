#pragma once
// DeviceMeter: what GPUs do while they train (memory, clock, temperature, power, why a clock is held down), as values
// of the run log: those of this rank's, and the extremes over all ranks, of which the heartbeats tell. Asking takes a
// fraction of a millisecond, so it is done at most once a second, on every rank; lines between have none. Numbers that
// no device tells are left out.

#include <chrono>
#include <functional>

#include "io/run_log.h"
#include "kernels/device.h"
#include "parallel/gpu_board.h"

namespace capstan {

class DeviceMeter {
 public:
  using Clock = std::chrono::steady_clock;
  DeviceMeter() = default;  ///< of a rank without a device: adds nothing
  /// board: null, or where this rank's reading is pinned up and those of all are found.
  explicit DeviceMeter(std::function<kernels::DeviceState()> ask, GpuBoard* board = nullptr)
      : ask_(std::move(ask)), board_(board) {}

  void add_to(MetricsLine& line, Clock::time_point now = Clock::now());

 private:
  std::function<kernels::DeviceState()> ask_;
  GpuBoard* board_ = nullptr;
  Clock::time_point next_{};
};

}  // namespace capstan
