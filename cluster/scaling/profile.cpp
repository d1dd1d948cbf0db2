#include "cluster/scaling/profile.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/linear_algebra.h"

namespace capstan::scaling {
namespace {

constexpr double kChiSquare68 = 0.988946, kChiSquare95 = 3.841459;  // one degree of freedom; 68% and 95%

class Tracer {
 public:
  Tracer(const Fit& fit, const Measurements& table, const Quantity& quantity)
      : fit_(fit), sample_(sample_of(table)), objective_(*fit.model, sample_, sample_.weight), quantity_(quantity) {
    best_ = fit.certificate.objective;
    scale_ = cost_scale(fit, table);
    at_best_ = quantity.at(fit.theta, &gradient_);
    // The quantity's variance for unit scale tells how strong a pull is strong.
    Evaluation at;
    objective_.evaluate(working_residual(), fit.theta, at, Objective::Curvature::majorant);
    const Vector step = NewtonModel(at.hessian, gradient_, fit.model->free()).step(0);
    for (int i = 0; i < fit.model->size(); ++i) variance_ -= gradient_[i] * step[i];
  }

  /// Where, on the side of `sign`, the objective has risen by scale * chi_square / 2.
  double end(int sign, double chi_square) const {
    const double rise = scale_ * chi_square / 2;
    if (!(variance_ > 0) || !std::isfinite(variance_) || !(rise > 0)) return sign * kInfinity;
    // sqrt(rise) is nearly linear in the quantity: bracket it, then false position on it.
    Point inside{at_best_, at_best_, 0, fit_.theta};
    double step = std::sqrt(2 * rise * variance_);
    for (int i = 0; i < 24; ++i, step *= 1.7) {
      const Point outside = reached(at_best_ + sign * step, inside.theta);
      if (outside.root >= std::sqrt(rise)) return between(inside, outside, std::sqrt(rise));
      if (std::abs(outside.value - at_best_) < 1e-3 * step) break;  // the quantity cannot follow
      inside = outside;
    }
    return sign * kInfinity;
  }

 private:
  struct Point {
    double target, value, root;  // what the quantity was pulled to, what it came to, the root of the objective's rise
    Vector theta;
  };

  /// L1's Hessian is a comb; its majorant at the size of the residuals is not.
  Residual working_residual() const {
    Residual kind = fit_.residual;
    if (kind.cost != Cost::l1) return kind;
    double sum = 0;
    for (const double r : fit_.residuals) sum += std::abs(r) / static_cast<double>(fit_.residuals.size());
    kind.delta = std::max(sum, 1e-12);
    return kind;
  }

  Point reached(double target, const Vector& from) const {
    Objective held(*fit_.model, sample_, sample_.weight);
    held.hold(&quantity_, target, 100 / variance_);
    const Minimum found = minimize(held, fit_.residual, from);
    return {target, quantity_.at(found.theta, nullptr), std::sqrt(std::max(found.objective - best_, 0.0)), found.theta};
  }

  double between(Point low, Point high, double root) const {
    for (int i = 0; i < 30; ++i) {
      if (std::abs(high.root - low.root) < 1e-9 * root) break;
      double share = std::clamp((root - low.root) / (high.root - low.root), 0.05, 0.95);
      const Point middle = reached(low.target + share * (high.target - low.target), low.theta);
      if (std::abs(middle.root - root) < 1e-4 * root) return middle.value;
      (middle.root < root ? low : high) = middle;
    }
    return (low.value + high.value) / 2;
  }

  const Fit& fit_;
  Sample sample_;
  Objective objective_;
  const Quantity& quantity_;
  Vector gradient_{};
  double best_ = 0, scale_ = 0, at_best_ = 0, variance_ = 0;
};

}  // namespace

Quantity::Quantity(const Model& model, std::function<double(const Vector&)> value)
    : model_(model), value_(std::move(value)) {}

double Quantity::at(const Vector& theta, Vector* gradient) const {
  if (gradient) {
    *gradient = Vector{};
    for (const int i : model_.free()) {
      Vector up = theta, down = theta;
      const double step = 1e-5 * std::max(std::abs(theta[i]), 1e-6);
      up[i] += step;
      down[i] -= step;
      (*gradient)[i] = (value_(up) - value_(down)) / (up[i] - down[i]);
    }
  }
  return value_(theta);
}

double cost_scale(const Fit& fit, const Measurements& table) {
  std::vector<double> sizes;
  for (const double r : fit.residuals) sizes.push_back(std::abs(r));
  std::sort(sizes.begin(), sizes.end());
  const double count = static_cast<double>(sizes.size());
  // Curvature of L1 (and of Huber with a small delta): the density of residuals near zero, over a window.
  double window = 1.5 * sizes[sizes.size() / 2] * std::pow(count / 10, -0.2);
  Residual kind = fit.residual;
  if (kind.cost == Cost::l1) kind.delta = 0;
  if (kind.cost == Cost::huber) window = std::max(window, kind.delta);
  double slopes = 0, curvatures = 0, total = 0;
  for (size_t i = 0; i < fit.residuals.size(); ++i) {
    const double r = fit.residuals[i], w = table.weight[i], slope = cost_at(kind, r).slope;
    total += w;
    slopes += w * slope * slope;
    if (kind.cost == Cost::l2)
      curvatures += w;
    else if (std::abs(r) <= window)
      curvatures += w * (kind.cost == Cost::l1 ? 1 : kind.delta) / window;
  }
  const double degrees = count - fit.model->free_count();
  return degrees > 0 && curvatures > 0 ? slopes / degrees * (total / curvatures) : 0;
}

Intervals profile_intervals(const Fit& fit, const Measurements& table, const Quantity& quantity) {
  const Tracer tracer(fit, table, quantity);
  return {{tracer.end(-1, kChiSquare68), tracer.end(1, kChiSquare68)},
          {tracer.end(-1, kChiSquare95), tracer.end(1, kChiSquare95)}};
}

}  // namespace capstan::scaling
