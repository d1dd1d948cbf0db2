#pragma once
// PhaseLimits: how long a rank may stand still in each phase before that is called a hang. Learnt: a multiple of the
// longest that this phase has taken so far, once it has been seen a few times; never below a floor (higher where files
// are read or written, since a file system may rest for minutes) and never above the ceiling that the user sets, which
// also holds while nothing is known.

#include <array>
#include <atomic>

#include "parallel/flight_record.h"

namespace capstan {

class PhaseLimits {
 public:
  static constexpr double kTimesSlowest = 5.0, kFloor = 30.0, kFloorOfFiles = 300.0;

  /// 0: no limit at all.
  explicit PhaseLimits(double ceiling_seconds);
  /// A phase has ended that took so long. One thread.
  void passed(Phase phase, double seconds);
  /// Any thread. Infinity: none.
  double of(Phase phase) const { return limits_[static_cast<size_t>(phase)].load(std::memory_order_relaxed); }
  double ceiling() const { return ceiling_; }

 private:
  double ceiling_;
  std::array<int, kPhaseCount> seen_{};
  std::array<double, kPhaseCount> slowest_{};
  std::array<std::atomic<double>, kPhaseCount> limits_{};
};

}  // namespace capstan
