#include "cluster/scaling/power_sum.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace capstan::scaling {
namespace {

constexpr double kLeastExponent = 0.005, kLargestExponent = 3;

std::vector<double> geometric(double from, double to, int count) {
  std::vector<double> out(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) out[i] = from * std::pow(to / from, static_cast<double>(i) / (count - 1));
  return out;
}

/// kaplan-n, -d, -c: Nc and alpha in place of a coefficient.
bool has_scale_constant(Form form) {
  return form == Form::kaplan_n || form == Form::kaplan_d || form == Form::kaplan_c || form == Form::kaplan_nd;
}

}  // namespace

PowerSum::PowerSum(Form form, const Measurements& centre, const FormOptions& options) : form_(form) {
  int exponents = 1;
  switch (form) {
    case Form::chinchilla:
      irreducible_ = 0;
      exponents = options.tie_exponents ? 1 : 2;
      terms_ = {{1, 0, 0, 1, 3}, {0, 1, 0, 2, options.tie_exponents ? 3 : 4}};
      names_ = {"E", "A", "B", "alpha", "beta"};
      coordinate_names_ = {"E", "A at the centre", "B at the centre", "alpha", "beta"};
      if (options.tie_exponents) {
        names_.pop_back();
        coordinate_names_.pop_back();
      }
      break;
    case Form::gadre:
      irreducible_ = 0;
      terms_ = {{1, -1, 1, 1, 3}, {-1, 1, 1, 2, 3}};  // z = ln C - ln M and ln C + ln M
      names_ = coordinate_names_ = {"E", "a", "b", "eta"};
      break;
    case Form::kaplan_nd:
      terms_ = {{1, 0, 0, 0, 2}, {0, 1, 0, 1, -1}};
      names_ = {"Nc", "Dc", "alpha_N", "alpha_D"};
      coordinate_names_ = {"N term at the centre", "D term at the centre", "alpha_N/alpha_D", "alpha_D"};
      outer_ = 3;
      break;
    case Form::kaplan_n:
      terms_ = {{1, 0, 0, 0, 1}};
      names_ = {"Nc", "alpha"};
      break;
    case Form::kaplan_d:
      terms_ = {{0, 1, 0, 0, 1}};
      names_ = {"Dc", "alpha"};
      break;
    case Form::kaplan_c:
      terms_ = {{0, 0, 1, 0, 1}};
      names_ = {"Cc", "alpha"};
      break;
    default:
      throw Error::make(ExitCode::internal, "form {} is not a sum of powers", name_of(form));
  }
  if (coordinate_names_.empty()) coordinate_names_ = {"loss at the centre", "alpha"};
  lay_out_coordinates(exponents);
  fix(options.fixed);
  centre_on(places_of(centre));
}

void PowerSum::lay_out_coordinates(int exponents) {
  linear_ = static_cast<int>(terms_.size()) + (irreducible_ >= 0 ? 1 : 0);
  for (int i = 0; i < linear_; ++i) {
    lower_[i] = 0;
    upper_[i] = kInfinity;
  }
  for (int i = linear_; i < size(); ++i) {
    lower_[i] = kLeastExponent;
    upper_[i] = kLargestExponent;
    grids_[i] = geometric(0.05, 1, exponents == 1 ? 64 : 20);
  }
  if (outer_ < 0) return;
  upper_[outer_ - 1] = 20;  // alpha_N / alpha_D
  grids_[outer_ - 1] = geometric(0.1, 5, 16);
  grids_[outer_] = geometric(0.02, 1, 16);
}

void PowerSum::fix(const std::vector<Constant>& fixed) {
  for (const Constant& constant : fixed) {
    const auto found = std::find(names_.begin(), names_.end(), constant.name);
    if (found == names_.end())
      throw Error::make(ExitCode::usage, "form {} has no parameter '{}' to hold fixed; it has {}", name_of(form_),
                        constant.name, fmt::join(names_, ", "));
    const int i = static_cast<int>(found - names_.begin());
    const bool mixed = has_scale_constant(form_) && (i < linear_ || (outer_ >= 0 && i == outer_ - 1));
    if (mixed)
      throw Error::make(ExitCode::usage, "form {} cannot hold '{}' fixed: it is a function of two fitted numbers",
                        name_of(form_), constant.name);
    if (!std::isfinite(constant.value) || constant.value < 0)
      throw Error::make(ExitCode::usage, "{} cannot be held at {}: wanted a finite number, zero or more", constant.name,
                        constant.value);
    lower_[i] = upper_[i] = constant.value;
    grids_[i] = {constant.value};
  }
}

void PowerSum::centre_on(const std::vector<Place>& places) {
  for (Term& term : terms_) {
    if (is_fixed(term.coefficient) && irreducible_ >= 0) continue;  // the coefficient itself is the coordinate
    double sum = 0;
    for (const Place& place : places) sum += term.z(place);
    term.centre = places.empty() ? 0 : sum / static_cast<double>(places.size());
  }
}

double PowerSum::log_loss(const Place& at, const Vector& theta, Vector* gradient, Matrix* hessian) const {
  double sum = irreducible_ < 0 ? 0 : theta[irreducible_];
  Vector first{};
  if (irreducible_ >= 0) first[irreducible_] = 1;
  if (hessian) *hessian = Matrix{};
  for (const Term& term : terms_) {
    const double z = term.z(at), exponent = term.exponent < 0 ? 1 : theta[term.exponent];
    const double power = std::exp(-exponent * z), value = theta[term.coefficient] * power;
    sum += value;
    first[term.coefficient] += power;
    if (term.exponent < 0) continue;
    first[term.exponent] -= z * value;
    if (!hessian) continue;
    (*hessian)[term.coefficient][term.exponent] -= z * power;
    (*hessian)[term.exponent][term.coefficient] -= z * power;
    (*hessian)[term.exponent][term.exponent] += z * z * value;
  }
  if (gradient) {
    *gradient = first;
    derivatives_of_power(sum, theta, *gradient, hessian);
  }
  return (outer_ < 0 ? 1 : theta[outer_]) * std::log(sum);
}

/// From derivatives of the sum S to those of q ln S.
void PowerSum::derivatives_of_power(double sum, const Vector& theta, Vector& gradient, Matrix* hessian) const {
  const double q = power(theta);
  const int count = size();
  for (int i = 0; i < count; ++i) gradient[i] /= sum;  // d ln S
  if (hessian)
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < count; ++j) (*hessian)[i][j] = q * ((*hessian)[i][j] / sum - gradient[i] * gradient[j]);
  if (outer_ < 0) return;
  if (hessian)
    for (int i = 0; i < count; ++i)
      if (i != outer_) (*hessian)[i][outer_] = (*hessian)[outer_][i] = gradient[i];
  for (int i = 0; i < count; ++i) gradient[i] *= q;
  gradient[outer_] = std::log(sum);
}

void PowerSum::columns(const Place& at, const Vector& theta, Vector& out) const {
  if (irreducible_ >= 0) out[irreducible_] = 1;
  for (const Term& term : terms_)
    out[term.coefficient] = std::exp(-(term.exponent < 0 ? 1 : theta[term.exponent]) * term.z(at));
}

std::vector<double> PowerSum::natural(const Vector& theta) const {
  std::vector<double> out(theta.begin(), theta.begin() + size());
  for (const Term& term : terms_) {
    const double exponent = term.exponent < 0 ? 1 : theta[term.exponent];
    const double log_coefficient = std::log(theta[term.coefficient]) + exponent * term.centre;
    out[term.coefficient] = std::exp(has_scale_constant(form_) ? log_coefficient / exponent : log_coefficient);
  }
  if (outer_ >= 0) out[2] = theta[2] * theta[3];  // alpha_N = ratio * alpha_D
  return out;
}

Vector PowerSum::from_natural(const std::vector<double>& values) const {
  CAPSTAN_CHECK(values.size() == static_cast<size_t>(size()), "{} values for {}", values.size(), name_of(form_));
  Vector theta{};
  std::copy(values.begin(), values.end(), theta.begin());
  if (outer_ >= 0) theta[2] = values[2] / values[3];
  for (const Term& term : terms_) {
    const double exponent = term.exponent < 0 ? 1 : theta[term.exponent];
    const double log_value = std::log(values[term.coefficient]);
    theta[term.coefficient] =
        std::exp((has_scale_constant(form_) ? exponent * log_value : log_value) - exponent * term.centre);
  }
  return theta;
}

}  // namespace capstan::scaling
