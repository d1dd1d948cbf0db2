#pragma once
// The sum that a fit minimises, over the rows of positive weight: sum_i w_i cost(r_i), with exact first and second
// derivatives. A row of weight zero costs nothing to evaluate, which is what resampling wants.

#include <vector>

#include "cluster/scaling/model.h"
#include "cluster/scaling/residual.h"

namespace capstan::scaling {

/// What a fit sees of the measurements; made once, shared by all resamples.
struct Sample {
  std::vector<Place> places;
  std::vector<double> loss, log_loss, weight;
};
Sample sample_of(const Measurements& m);

/// A smooth function of the coordinates whose value is held near a target by a quadratic penalty (profile.h).
class Functional;

struct Evaluation {
  double value = 0;
  Vector gradient{};
  Matrix hessian{};
};

class Objective {
 public:
  /// All three must outlive the objective.
  Objective(const Model& model, const Sample& sample, const std::vector<double>& weights);
  /// Adds strength/2 (functional - target)^2.
  void hold(const Functional* functional, double target, double strength);

  double value(const Residual& residual, const Vector& theta) const;
  /// With the exact Hessian, or with that of the sum of squares that touches the objective here and lies above it (the
  /// matrix of reweighted least squares): never indefinite, and not empty where every row is past delta.
  enum class Curvature { exact, majorant };
  void evaluate(const Residual& residual, const Vector& theta, Evaluation& out,
                Curvature curvature = Curvature::exact) const;
  /// How the gradient of smoothed L1 changes with its delta.
  Vector gradient_by_delta(const Residual& residual, const Vector& theta) const;
  double residual(const Residual& residual, const Vector& theta, size_t row) const;
  double total_weight() const { return total_weight_; }
  const Model& model() const { return model_; }
  const Sample& sample() const { return sample_; }
  const std::vector<double>& weights() const { return weights_; }
  const std::vector<int>& rows() const { return rows_; }
  /// Losses are of this size; a residual on raw losses is compared with it.
  double scale(const Residual& residual) const { return residual.on_log ? 1 : typical_loss_; }

 private:
  const Model& model_;
  const Sample& sample_;
  const std::vector<double>& weights_;
  std::vector<int> rows_;
  double total_weight_ = 0, typical_loss_ = 1;
  const Functional* functional_ = nullptr;
  double target_ = 0, strength_ = 0;
};

class Functional {
 public:
  virtual ~Functional() = default;
  /// Finite wherever the law is; the gradient is written.
  virtual double at(const Vector& theta, Vector* gradient) const = 0;
};

}  // namespace capstan::scaling
