#pragma once
// Profile likelihoods: how far can a quantity be pushed, all parameters being refitted to suit it, before the objective
// rises by more than noise explains? Works for any smooth quantity (a constant, ln N* at a budget): it is pulled
// towards a target by a quadratic penalty, and the pair (quantity reached, objective there) lies on the profile
// exactly, wherever the target was; the target is moved until the objective meets the threshold. The threshold is chi^2
// / 2 times the scale of the cost at these residuals, sum(slope^2) / sum(curvature): sigma^2 for L2, and what makes the
// statistic chi^2 distributed for Huber and L1.

#include <functional>

#include "cluster/scaling/bootstrap.h"

namespace capstan::scaling {

/// A quantity of the coordinates; finite near the fit. Its gradient is taken by central differences.
class Quantity final : public Functional {
 public:
  Quantity(const Model& model, std::function<double(const Vector&)> value);
  double at(const Vector& theta, Vector* gradient) const override;

 private:
  const Model& model_;
  std::function<double(const Vector&)> value_;
};

/// Ends are infinite where the objective never rises enough: the table does not bound the quantity on that side.
Intervals profile_intervals(const Fit& fit, const Measurements& table, const Quantity& quantity);

/// The scale of the cost at the fit's residuals.
double cost_scale(const Fit& fit, const Measurements& table);

}  // namespace capstan::scaling
