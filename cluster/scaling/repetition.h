#pragma once
// Data repetition (Muennighoff et al. 2023): L = E + A/N'^alpha + B/D'^beta, where tokens seen again and parameters
// beyond what the unique tokens can use count for less and less:
//   D' = U + U Rd (1 - exp(-(D/U - 1)/Rd)), U the unique tokens;
//   N' = Un + Un Rn (1 - exp(-(N/Un - 1)/Rn)), Un = min(N, the compute-optimal N for U tokens under this very law).
// Un depends on A, B, alpha and beta, so derivatives are taken by jets (jet.h).

#include "cluster/scaling/model.h"

namespace capstan::scaling {

class Repetition final : public Model {
 public:
  Repetition(const Measurements& centre, const FormOptions& options);

  double log_loss(const Place& at, const Vector& theta, Vector* gradient, Matrix* hessian) const override;
  void columns(const Place& at, const Vector& theta, Vector& out) const override;
  std::vector<double> natural(const Vector& theta) const override;
  Vector from_natural(const std::vector<double>& values) const override;

 private:
  template <class Number>
  void effective_logs(const Place& at, const std::array<Number, 7>& theta, Number& ln_n, Number& ln_d) const;
  double centre_n_ = 0, centre_d_ = 0;
};

/// ln of the value of `ln_amount` units when only exp(ln_distinct) are distinct and repeats decay with constant r.
double log_effective(double ln_amount, double ln_distinct, double r);

}  // namespace capstan::scaling
