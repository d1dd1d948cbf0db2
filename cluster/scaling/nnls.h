#pragma once
// Least squares with every unknown >= 0 (Lawson and Hanson's active sets), over the normal equations: a law has two or
// three linear coefficients and hundreds of rows, so the rows are summed once and the search runs on a 3 x 3 matrix.

#include "cluster/scaling/small.h"

namespace capstan::scaling {

/// Minimises x' gram x / 2 - moment' x over x >= 0; gram = A' W A, moment = A' W y, both of size count.
Vector nonnegative_least_squares(const Matrix& gram, const Vector& moment, int count);

}  // namespace capstan::scaling
