#pragma once
// GpuBoard: what the ranks' GPUs tell while they train (memory, clock, heat, why a clock is held down), from rank to
// rank with the heartbeats: no collective, and nobody waits. The thread that trains pins up its own reading and takes
// what is known of all ranks; the monitor thread carries readings to the watchers and sums up what came.

#include <array>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace capstan {

/// Trivially copyable: it goes over the wire. NAN: not told.
struct GpuReading {
  double memory_bytes = NAN, clock_mhz = NAN, temperature = NAN;
  std::array<char, 40> throttled{};  ///< why, ending in a zero; empty: it is not
  uint64_t told = 0;                 ///< 0: this rank has no GPU, or has not asked it yet; else 1
};
GpuReading reading_of(const kernels::DeviceState& state);
/// False for bytes that nobody made from a device's state.
bool is_sound(const GpuReading& reading);

/// Over the ranks that have told something; NAN where none tells.
struct GpuSummary {
  int ranks = 0;
  double most_memory_bytes = NAN, hottest = NAN, slowest_clock_mhz = NAN;
  std::string throttled;  ///< "heat: 3,5-7; power cap: 0"; empty: none is
};
/// By rank.
GpuSummary summary_of(const std::vector<GpuReading>& readings);

class GpuBoard {
 public:
  void tell(const GpuReading& own);
  GpuReading own() const;
  void publish(GpuSummary all);
  /// Of a few seconds ago at most; nothing on ranks to which nobody reports.
  std::optional<GpuSummary> all() const;

 private:
  mutable std::mutex mutex_;
  GpuReading own_;
  std::optional<GpuSummary> all_;
};

}  // namespace capstan
