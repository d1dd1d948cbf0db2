#include "cluster/scaling/minimize.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/linear_algebra.h"

namespace capstan::scaling {
namespace {

constexpr int kMostSteps = 300;

Vector clamped(const Model& model, Vector theta) {
  for (int i = 0; i < model.size(); ++i) theta[i] = std::clamp(theta[i], model.lower()[i], model.upper()[i]);
  return theta;
}

bool pressed_against_bound(const Model& model, const Vector& theta, const Vector& gradient, int i) {
  return (theta[i] <= model.lower()[i] && gradient[i] > 0) || (theta[i] >= model.upper()[i] && gradient[i] < 0);
}

std::vector<int> moving(const Model& model, const Vector& theta, const Vector& gradient) {
  std::vector<int> out;
  for (int i = 0; i < model.size(); ++i)
    if (!model.is_fixed(i) && !pressed_against_bound(model, theta, gradient, i)) out.push_back(i);
  return out;
}

/// A fit this good is exact to rounding: nothing is left to gain.
double rounding_floor(const Objective& objective, const Residual& kind) {
  return objective.total_weight() * cost_at(kind, 1e-13 * objective.scale(kind)).value;
}

struct Descent {
  Vector theta;
  Evaluation at;
  double decrement = kInfinity;
  int steps = 0;
  bool converged = false;
};

/// One damped step that lowers the objective; false where none could be found.
bool step_down(const Objective& objective, const Residual& kind, const NewtonModel& newton, double& damping,
               Descent& d) {
  const Model& model = objective.model();
  for (; damping < 1e12; damping = std::max(damping * 8, 1e-6)) {
    Vector trial = d.theta;
    const Vector change = newton.step(damping);
    for (int i = 0; i < model.size(); ++i) trial[i] += change[i];
    trial = clamped(model, trial);
    if (trial == d.theta) return false;
    if (objective.value(kind, trial) >= d.at.value) continue;
    d.theta = trial;
    damping = std::max(damping / 64, 1e-12);
    return true;
  }
  return false;
}

/// The same with the majorant's curvature, which is what serves where the exact one is empty or jumps.
bool step_down_majorant(const Objective& objective, const Residual& kind, Descent& d) {
  Evaluation at;
  objective.evaluate(kind, d.theta, at, Objective::Curvature::majorant);
  double damping = 1e-9;
  return step_down(objective, kind, {at.hessian, at.gradient, moving(objective.model(), d.theta, at.gradient)}, damping,
                   d);
}

/// One smooth objective, to the end.
void descend(const Objective& objective, const Residual& kind, double tolerance, Descent& d) {
  const Model& model = objective.model();
  const double floor = rounding_floor(objective, kind);
  double damping = 1e-6;
  d.converged = false;
  objective.evaluate(kind, d.theta, d.at);
  for (int step = 0; step < kMostSteps; ++step, ++d.steps) {
    const NewtonModel newton(d.at.hessian, d.at.gradient, moving(model, d.theta, d.at.gradient));
    d.decrement = newton.decrement();
    if (d.decrement <= tolerance * d.at.value + floor || d.at.value <= floor) {
      d.converged = true;
      return;
    }
    bool moved = step_down(objective, kind, newton, damping, d);
    if (!moved) {
      moved = step_down_majorant(objective, kind, d);
      damping = 1e-6;
    }
    if (!moved) {  // no smaller value can be represented: settled if what was left to gain is rounding
      d.converged = d.decrement <= 1e-9 * d.at.value + floor;
      return;
    }
    objective.evaluate(kind, d.theta, d.at);
  }
}

double typical_residual(const Objective& objective, const Residual& kind, const Vector& theta) {
  std::vector<double> sizes;
  for (const int i : objective.rows()) sizes.push_back(std::abs(objective.residual(kind, theta, i)));
  if (sizes.empty()) return 0;
  std::nth_element(sizes.begin(), sizes.begin() + static_cast<long>(sizes.size() / 2), sizes.end());
  return sizes[sizes.size() / 2];
}

/// Follows the path of the minimum from delta to a smaller one, as far as its tangent tells.
void shrink_delta(const Objective& objective, Residual& kind, double smaller, Descent& d) {
  const Vector drift = objective.gradient_by_delta(kind, d.theta);
  const Vector tangent =
      NewtonModel(d.at.hessian, drift, moving(objective.model(), d.theta, d.at.gradient)).step(0);  // d theta / d delta
  Vector ahead = d.theta;
  for (int i = 0; i < objective.model().size(); ++i) ahead[i] += tangent[i] * (smaller - kind.delta);
  ahead = clamped(objective.model(), ahead);
  kind.delta = smaller;
  if (objective.value(kind, ahead) < objective.value(kind, d.theta)) d.theta = ahead;
}

void descend_towards_l1(const Objective& objective, Residual& kind, Descent& d) {
  const double scale = objective.scale(kind);
  constexpr int kStages = 8;
  for (int stage = 0; stage < kStages; ++stage) {
    const double least = 1e-12 * scale;
    if (stage < 2)
      kind.delta = std::max(typical_residual(objective, kind, d.theta), least);
    else
      shrink_delta(objective, kind, std::max(kind.delta / 8, least), d);
    descend(objective, kind, stage + 1 == kStages ? 1e-16 : 1e-7, d);
  }
}

}  // namespace

Minimum minimize(const Objective& objective, const Residual& residual, const Vector& start) {
  const Model& model = objective.model();
  Residual kind = residual;
  Descent d{clamped(model, start), {}};
  if (kind.cost == Cost::l1)
    descend_towards_l1(objective, kind, d);
  else
    descend(objective, kind, 1e-15, d);
  Minimum out;
  out.theta = d.theta;
  out.decrement = d.decrement;
  out.hessian = d.at.hessian;
  out.steps = d.steps;
  out.converged = d.converged;
  out.objective = 0;
  for (const int i : objective.rows()) {
    Residual plain = kind;
    if (plain.cost == Cost::l1) plain.delta = 0;
    out.objective += objective.weights()[i] * cost_at(plain, objective.residual(kind, d.theta, i)).value;
  }
  double square = 0;
  for (const int i : moving(model, d.theta, d.at.gradient)) square += d.at.gradient[i] * d.at.gradient[i];
  out.gradient_norm = std::sqrt(square);
  for (int i = 0; i < model.size(); ++i)
    if (!model.is_fixed(i) && (d.theta[i] <= model.lower()[i] || d.theta[i] >= model.upper()[i]))
      out.at_bound.push_back(i);
  return out;
}

}  // namespace capstan::scaling
