#pragma once
// Where to begin. For given exponents the law is linear in its coefficients, so a grid over the exponents alone covers
// the whole space: at each grid point the coefficients are solved for (least squares with coefficients >= 0, reweighted
// a few times so that they belong to Huber's or L1's cost). What comes back is the best of the grid and, so that
// agreement between starts means something, points spread over all of it.

#include <vector>

#include "cluster/scaling/objective.h"

namespace capstan::scaling {

/// At least 32 (fewer only where the grid itself is smaller), the most promising first.
std::vector<Vector> starting_points(const Objective& objective, const Residual& residual);

}  // namespace capstan::scaling
