#pragma once
// How far a law is from a measurement, and what that costs. Residual: ln(predicted) - ln(measured), or the plain
// difference. Cost: Huber (r^2/2 up to delta, then delta(|r| - delta/2)), L1 (|r|) or L2 (r^2/2). The objective is
// always the weighted SUM over rows: a mean makes optimisers stop early, and its minimum looks converged when it is
// not. L1 has no derivative at zero; it is met as Huber/delta for a delta that goes to zero (see minimize.h).

#include <cmath>

namespace capstan::scaling {

enum class Cost { huber, l1, l2 };

struct Residual {
  Cost cost = Cost::huber;
  double delta = 1e-3;  ///< where Huber turns from square to linear; for l1 the smoothing in force (0: none)
  bool on_log = true;
};

struct CostAt {
  double value, slope, curvature;
};

inline CostAt cost_at(const Residual& kind, double r) {
  if (kind.cost == Cost::l2) return {r * r / 2, r, 1};
  const double size = std::abs(r), sign = r < 0 ? -1 : 1;
  if (kind.cost == Cost::huber)
    return size <= kind.delta ? CostAt{r * r / 2, r, 1}
                              : CostAt{kind.delta * (size - kind.delta / 2), sign * kind.delta, 0};
  return size < kind.delta ? CostAt{r * r / (2 * kind.delta), r / kind.delta, 1 / kind.delta}
                           : CostAt{size - kind.delta / 2, sign, 0};
}

}  // namespace capstan::scaling
