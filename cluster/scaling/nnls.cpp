#include "cluster/scaling/nnls.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cluster/scaling/linear_algebra.h"

namespace capstan::scaling {
namespace {

using Mask = std::array<bool, kMaxParameters>;

/// The unconstrained solution over the passive unknowns, the others at zero; columns scaled to unit length first.
bool solve_passive(const Matrix& gram, const Vector& moment, int count, const Mask& passive, Vector& x) {
  std::vector<int> rows;
  for (int i = 0; i < count; ++i)
    if (passive[i]) rows.push_back(i);
  const int size = static_cast<int>(rows.size());
  Matrix a{};
  Vector b{}, scale{}, solution{};
  for (int i = 0; i < size; ++i) scale[i] = 1 / std::sqrt(gram[rows[i]][rows[i]]);
  for (int i = 0; i < size; ++i) {
    b[i] = moment[rows[i]] * scale[i];
    for (int j = 0; j < size; ++j) a[i][j] = gram[rows[i]][rows[j]] * scale[i] * scale[j];
  }
  if (!solve_positive(a, b, size, solution)) return false;
  x = Vector{};
  for (int i = 0; i < size; ++i) x[rows[i]] = solution[i] * scale[i];
  return true;
}

/// The unknown at zero whose increase lowers the sum the most (in units of its own column), or -1.
int steepest(const Matrix& gram, const Vector& moment, int count, const Mask& passive, const Mask& refused,
             const Vector& x) {
  int best = -1;
  double most = 0;
  for (int i = 0; i < count; ++i) {
    if (passive[i] || refused[i] || !(gram[i][i] > 0)) continue;
    double slope = moment[i];
    for (int j = 0; j < count; ++j) slope -= gram[i][j] * x[j];
    slope /= std::sqrt(gram[i][i]);
    if (slope > most) {
      most = slope;
      best = i;
    }
  }
  double scale = 0;
  for (int i = 0; i < count; ++i)
    if (gram[i][i] > 0) scale = std::max(scale, std::abs(moment[i]) / std::sqrt(gram[i][i]));
  return most > 1e-13 * scale ? best : -1;
}

/// From x towards the passive solution as far as all stay >= 0; those that reach zero leave the passive set.
void step_towards(const Vector& target, int count, Mask& passive, Vector& x) {
  double share = 1;
  for (int i = 0; i < count; ++i)
    if (passive[i] && target[i] <= 0) share = std::min(share, x[i] / (x[i] - target[i]));
  for (int i = 0; i < count; ++i) {
    if (!passive[i]) continue;
    x[i] += share * (target[i] - x[i]);
    if (target[i] <= 0 && x[i] <= 1e-15 * std::abs(target[i])) {
      x[i] = 0;
      passive[i] = false;
    }
  }
}

}  // namespace

Vector nonnegative_least_squares(const Matrix& gram, const Vector& moment, int count) {
  Vector x{};
  Mask passive{}, refused{};
  for (int round = 0; round < 16 * count; ++round) {
    const int entering = steepest(gram, moment, count, passive, refused, x);
    if (entering < 0) return x;
    passive[entering] = true;
    for (int inner = 0; inner <= count; ++inner) {
      Vector target{};
      if (!solve_passive(gram, moment, count, passive, target)) {  // a column that repeats another
        passive[entering] = false;
        refused[entering] = true;
        break;
      }
      const bool inside = [&] {
        for (int i = 0; i < count; ++i)
          if (passive[i] && target[i] <= 0) return false;
        return true;
      }();
      if (inside) {
        x = target;
        refused = Mask{};
        break;
      }
      step_towards(target, count, passive, x);
      if (!passive[entering]) refused[entering] = true;
    }
  }
  return x;
}

}  // namespace capstan::scaling
