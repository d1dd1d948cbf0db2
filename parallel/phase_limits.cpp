#include "parallel/phase_limits.h"

#include <algorithm>
#include <limits>

namespace capstan {
namespace {

bool uses_files(Phase phase) { return phase == Phase::data || phase == Phase::save || phase == Phase::log; }
/// Evaluations and checkpoints are rare, and the first steps are the slowest.
int enough_of(Phase phase) { return phase == Phase::evaluate || phase == Phase::save ? 2 : 5; }

}  // namespace

PhaseLimits::PhaseLimits(double ceiling_seconds)
    : ceiling_(ceiling_seconds > 0 ? ceiling_seconds : std::numeric_limits<double>::infinity()) {
  for (auto& limit : limits_) limit = ceiling_;
}

void PhaseLimits::passed(Phase phase, double seconds) {
  if (phase == Phase::start || phase == Phase::end) return;
  const size_t i = static_cast<size_t>(phase);
  slowest_[i] = std::max(slowest_[i], seconds);
  if (++seen_[i] < enough_of(phase)) return;
  const double floor = uses_files(phase) ? kFloorOfFiles : kFloor;
  limits_[i].store(std::min(ceiling_, std::max(floor, kTimesSlowest * slowest_[i])), std::memory_order_relaxed);
}

}  // namespace capstan
