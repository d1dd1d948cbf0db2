#pragma once
// Every form but repetition is one family: L = (E + sum_j K_j exp(-p_j z_j))^q, with z_j a combination of ln N, ln D
// and ln C less its mean over the data, p_j one of the exponents (or 1), and q one of the parameters (or 1).
//   chinchilla  E + A/N^alpha + B/D^beta            kaplan-n  (Nc/N)^alpha, and so for D and C
//   kaplan-nd   ((Nc/N)^(aN/aD) + Dc/D)^aD          gadre     E + (a M^eta + b M^-eta) C^-eta with M = D/N

#include "cluster/scaling/model.h"

namespace capstan::scaling {

class PowerSum final : public Model {
 public:
  PowerSum(Form form, const Measurements& centre, const FormOptions& options);

  double log_loss(const Place& at, const Vector& theta, Vector* gradient, Matrix* hessian) const override;
  void columns(const Place& at, const Vector& theta, Vector& out) const override;
  double power(const Vector& theta) const override { return outer_ < 0 ? 1 : theta[outer_]; }
  std::vector<double> natural(const Vector& theta) const override;
  Vector from_natural(const std::vector<double>& values) const override;

 private:
  struct Term {
    double on_n, on_d, on_c;  // z = on_n ln N + on_d ln D + on_c ln C - centre
    int coefficient, exponent;
    double centre = 0;
    double z(const Place& at) const { return on_n * at.ln_n + on_d * at.ln_d + on_c * at.ln_c - centre; }
  };

  void lay_out_coordinates(int exponents);
  void centre_on(const std::vector<Place>& places);
  void fix(const std::vector<Constant>& fixed);
  void derivatives_of_power(double sum, const Vector& theta, Vector& gradient, Matrix* hessian) const;

  Form form_;
  std::vector<Term> terms_;
  int outer_ = -1;  // the coordinate that is q
};

}  // namespace capstan::scaling
