#pragma once
// Vectors and matrices of a law's parameters. A law has at most seven, so they are arrays on the stack with a count
// kept beside them by their user; entries past the count are zero and stay so.

#include <array>
#include <limits>

namespace capstan::scaling {

inline constexpr int kMaxParameters = 8;
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Vector = std::array<double, kMaxParameters>;
using Matrix = std::array<Vector, kMaxParameters>;

}  // namespace capstan::scaling
