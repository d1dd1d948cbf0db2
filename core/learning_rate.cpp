#include "core/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace capstan {

double learning_rate_at(const ScheduleConfig& schedule, double peak, int64_t step, int64_t total) {
  using Kind = ScheduleConfig::Kind;
  const double warmup = static_cast<double>(schedule.warmup_steps), now = static_cast<double>(step),
               end = static_cast<double>(total);
  if (now < warmup) return peak * (now + 1.0) / warmup;
  const double minimum = peak * schedule.minimum_ratio;
  const double t = std::clamp((now - warmup) / std::max(end - warmup, 1.0), 0.0, 1.0);
  switch (schedule.kind) {
    case Kind::cosine:
      return minimum + (peak - minimum) * 0.5 * (1.0 + std::cos(std::numbers::pi * t));
    case Kind::linear:
      return peak + (minimum - peak) * t;
    case Kind::constant:
      return peak;
    case Kind::inverse_sqrt:
      return std::max(minimum, peak * std::sqrt(std::max(warmup, 1.0) / (now + 1.0)));
    case Kind::wsd: {
      const double decay = std::max(schedule.decay_fraction * end, 1.0);
      const double u = std::clamp((now - (end - decay)) / decay, 0.0, 1.0);
      return minimum + (peak - minimum) * (1.0 - std::sqrt(u));
    }
  }
  return peak;
}

}  // namespace capstan
