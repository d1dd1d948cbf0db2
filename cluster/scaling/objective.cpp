#include "cluster/scaling/objective.h"

#include <cmath>

namespace capstan::scaling {

Sample sample_of(const Measurements& m) {
  Sample sample{places_of(m), m.loss, {}, m.weight};
  for (const double loss : m.loss) sample.log_loss.push_back(std::log(loss));
  return sample;
}

Objective::Objective(const Model& model, const Sample& sample, const std::vector<double>& weights)
    : model_(model), sample_(sample), weights_(weights) {
  double log_sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0)) continue;
    rows_.push_back(static_cast<int>(i));
    total_weight_ += weights[i];
    log_sum += weights[i] * sample.log_loss[i];
  }
  if (total_weight_ > 0) typical_loss_ = std::exp(log_sum / total_weight_);
}

void Objective::hold(const Functional* functional, double target, double strength) {
  functional_ = functional;
  target_ = target;
  strength_ = strength;
}

double Objective::residual(const Residual& kind, const Vector& theta, size_t row) const {
  const double log_loss = model_.log_loss(sample_.places[row], theta, nullptr, nullptr);
  return kind.on_log ? log_loss - sample_.log_loss[row] : std::exp(log_loss) - sample_.loss[row];
}

double Objective::value(const Residual& kind, const Vector& theta) const {
  double sum = 0;
  for (const int i : rows_) sum += weights_[i] * cost_at(kind, residual(kind, theta, i)).value;
  if (functional_) sum += strength_ / 2 * std::pow(functional_->at(theta, nullptr) - target_, 2);
  return std::isfinite(sum) ? sum : kInfinity;
}

void Objective::evaluate(const Residual& kind, const Vector& theta, Evaluation& out, Curvature curvature) const {
  const bool exact = curvature == Curvature::exact;
  const int count = model_.size();
  out = Evaluation{};
  Vector first;
  Matrix second;
  for (const int i : rows_) {
    const double log_loss = model_.log_loss(sample_.places[i], theta, &first, exact ? &second : nullptr);
    // r, dr = a d(ln L), ddr = a dd(ln L) + b d(ln L) d(ln L)'
    double r = log_loss - sample_.log_loss[i], a = 1, b = 0;
    if (!kind.on_log) {
      a = b = std::exp(log_loss);
      r = a - sample_.loss[i];
    }
    const CostAt cost = cost_at(kind, r);
    out.value += weights_[i] * cost.value;
    const double slope = weights_[i] * cost.slope * a;
    const double outer = exact || r == 0 ? cost.curvature * a * a + cost.slope * b : cost.slope / r * a * a;
    for (int j = 0; j < count; ++j) {
      out.gradient[j] += slope * first[j];
      for (int k = 0; k <= j; ++k) out.hessian[j][k] += weights_[i] * outer * first[j] * first[k];
      if (exact)
        for (int k = 0; k <= j; ++k) out.hessian[j][k] += slope * second[j][k];
    }
  }
  if (functional_) {
    const double off = functional_->at(theta, &first) - target_;
    out.value += strength_ / 2 * off * off;
    for (int j = 0; j < count; ++j) {
      out.gradient[j] += strength_ * off * first[j];
      for (int k = 0; k <= j; ++k) out.hessian[j][k] += strength_ * first[j] * first[k];
    }
  }
  for (int j = 0; j < count; ++j)
    for (int k = 0; k < j; ++k) out.hessian[k][j] = out.hessian[j][k];
  if (!std::isfinite(out.value)) out.value = kInfinity;
}

Vector Objective::gradient_by_delta(const Residual& kind, const Vector& theta) const {
  Vector out{}, first{};
  for (const int i : rows_) {
    const double r = residual(kind, theta, i);
    if (std::abs(r) >= kind.delta) continue;
    const double log_loss = model_.log_loss(sample_.places[i], theta, &first, nullptr);
    const double slope = -weights_[i] * r / (kind.delta * kind.delta) * (kind.on_log ? 1 : std::exp(log_loss));
    for (int j = 0; j < model_.size(); ++j) out[j] += slope * first[j];
  }
  return out;
}

}  // namespace capstan::scaling
