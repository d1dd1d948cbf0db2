#pragma once
// Newton's method with exact second derivatives, damped and within bounds. Huber's objective is smooth once and its
// second derivative jumps; damping and a decrease demanded at every step make that harmless. L1 is met through a
// sequence of Huber/delta objectives whose delta shrinks by tens down to 1e-9 of a typical residual: at the end the
// rows inside delta are those that the optimum passes through, and the gradient of the last one is zero exactly when
// the multipliers of those rows prove the optimum.

#include "cluster/scaling/objective.h"

namespace capstan::scaling {

struct Minimum {
  Vector theta{};
  double objective = kInfinity;  ///< with the true cost (L1 unsmoothed), without penalties
  double gradient_norm = 0;      ///< over parameters that are not at a bound
  double decrement = 0;          ///< what a Newton step would still gain
  Matrix hessian{};
  std::vector<int> at_bound;  ///< coordinates that were free to move and ended at a bound
  int steps = 0;
  bool converged = false;
};

/// From `start` (brought within the bounds first).
Minimum minimize(const Objective& objective, const Residual& residual, const Vector& start);

}  // namespace capstan::scaling
