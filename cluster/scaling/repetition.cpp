#include "cluster/scaling/repetition.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/jet.h"
#include "core/error.h"

namespace capstan::scaling {
namespace {

enum Coordinate { kE, kA, kB, kAlpha, kBeta, kRd, kRn };  // Rd and Rn as logarithms

double value_of(double x) { return x; }
template <int K>
double value_of(const Jet<K>& x) {
  return x.value;
}

/// ln of U + U r (1 - exp(-(amount/U - 1)/r)); plain ln(amount) where nothing repeats.
template <class Number>
Number log_value_of(double ln_amount, const Number& ln_distinct, const Number& ln_r) {
  using std::exp;
  using std::log;
  if (ln_amount <= value_of(ln_distinct)) return Number(ln_amount);
  const Number repeats = exp(Number(ln_amount) - ln_distinct) - Number(1);
  const Number r = exp(ln_r);
  return ln_distinct + log(Number(1) + r * (Number(1) - exp(Number(0) - repeats / r)));
}

}  // namespace

double log_effective(double ln_amount, double ln_distinct, double r) {
  return log_value_of<double>(ln_amount, ln_distinct, std::log(r));
}

Repetition::Repetition(const Measurements& centre, const FormOptions& options) {
  if (centre.unique.empty())
    throw Error::make(ExitCode::usage,
                      "form repetition needs to know how many distinct tokens each run had; name that column with "
                      "--unique");
  linear_ = 3;
  irreducible_ = kE;
  names_ = {"E", "A", "B", "alpha", "beta", "Rd", "Rn"};
  coordinate_names_ = {"E", "A at the centre", "B at the centre", "alpha", "beta", "ln Rd", "ln Rn"};
  for (int i = kE; i <= kB; ++i) {
    lower_[i] = i == kE ? 0 : 1e-9;
    upper_[i] = kInfinity;
  }
  for (int i = kAlpha; i <= kBeta; ++i) {
    lower_[i] = 0.005;
    upper_[i] = 3;
    grids_[i] = {0.1, 0.2, 0.3, 0.4, 0.55, 0.8};
  }
  for (int i = kRd; i <= kRn; ++i) {
    lower_[i] = std::log(0.05);
    upper_[i] = std::log(5e3);
    grids_[i] = {std::log(1.0), std::log(5.0), std::log(25.0), std::log(150.0)};
  }
  for (size_t i = 0; i < centre.size(); ++i) {
    centre_n_ += std::log(centre.parameters[i]) / static_cast<double>(centre.size());
    centre_d_ += std::log(centre.tokens[i]) / static_cast<double>(centre.size());
  }
  for (const Constant& constant : options.fixed) {
    const auto found = std::find(names_.begin(), names_.end(), constant.name);
    if (found == names_.end())
      throw Error::make(ExitCode::usage, "form repetition has no parameter '{}' to hold fixed; it has {}",
                        constant.name, fmt::join(names_, ", "));
    const int i = static_cast<int>(found - names_.begin());
    if (!std::isfinite(constant.value) || !(constant.value > 0))
      throw Error::make(ExitCode::usage, "{} cannot be held at {}: wanted a finite number above zero", constant.name,
                        constant.value);
    if (i == kA) centre_n_ = 0;
    if (i == kB) centre_d_ = 0;
    lower_[i] = upper_[i] = i >= kRd ? std::log(constant.value) : constant.value;
    grids_[i] = {lower_[i]};
  }
}

template <class Number>
void Repetition::effective_logs(const Place& at, const std::array<Number, 7>& t, Number& ln_n, Number& ln_d) const {
  using std::log;
  ln_d = log_value_of<Number>(at.ln_d, Number(at.ln_u), t[kRd]);
  // N* for U tokens under 6ND: ln G + (beta/alpha)(ln U + ln G), ln G = ln(alpha A / (beta B)) / (alpha + beta)
  const Number ln_a = log(t[kA]) + t[kAlpha] * Number(centre_n_);
  const Number ln_b = log(t[kB]) + t[kBeta] * Number(centre_d_);
  const Number ln_g = (log(t[kAlpha]) + ln_a - log(t[kBeta]) - ln_b) / (t[kAlpha] + t[kBeta]);
  const Number usable = ln_g + t[kBeta] / t[kAlpha] * (Number(at.ln_u) + ln_g);
  ln_n = log_value_of<Number>(at.ln_n, usable, t[kRn]);
}

double Repetition::log_loss(const Place& at, const Vector& theta, Vector* gradient, Matrix* hessian) const {
  if (!gradient) {
    std::array<double, 7> t;
    std::copy_n(theta.begin(), 7, t.begin());
    double ln_n, ln_d;
    effective_logs<double>(at, t, ln_n, ln_d);
    return std::log(t[kE] + t[kA] * std::exp(-t[kAlpha] * (ln_n - centre_n_)) +
                    t[kB] * std::exp(-t[kBeta] * (ln_d - centre_d_)));
  }
  using Number = Jet<7>;
  std::array<Number, 7> t;
  for (int i = 0; i < 7; ++i) t[i] = Number::variable(theta[i], i);
  Number ln_n, ln_d;
  effective_logs<Number>(at, t, ln_n, ln_d);
  const Number of_n = t[kA] * exp(t[kAlpha] * (Number(centre_n_) - ln_n));
  const Number out = log(t[kE] + of_n + t[kB] * exp(t[kBeta] * (Number(centre_d_) - ln_d)));
  *gradient = Vector{};
  for (int i = 0; i < 7; ++i) (*gradient)[i] = out.first[i];
  if (hessian) {
    *hessian = Matrix{};
    for (int i = 0; i < 7; ++i)
      for (int j = 0; j <= i; ++j) (*hessian)[i][j] = (*hessian)[j][i] = out.second[i][j];
  }
  return out.value;
}

void Repetition::columns(const Place& at, const Vector& theta, Vector& out) const {
  std::array<double, 7> t;
  std::copy_n(theta.begin(), 7, t.begin());
  double ln_n = at.ln_n, ln_d;
  if (t[kA] > 0 && t[kB] > 0)
    effective_logs<double>(at, t, ln_n, ln_d);
  else  // no coefficients yet: no parameter is in excess
    ln_d = log_value_of<double>(at.ln_d, at.ln_u, t[kRd]);
  out[kE] = 1;
  out[kA] = std::exp(-t[kAlpha] * (ln_n - centre_n_));
  out[kB] = std::exp(-t[kBeta] * (ln_d - centre_d_));
}

std::vector<double> Repetition::natural(const Vector& t) const {
  return {t[kE],
          t[kA] * std::exp(t[kAlpha] * centre_n_),
          t[kB] * std::exp(t[kBeta] * centre_d_),
          t[kAlpha],
          t[kBeta],
          std::exp(t[kRd]),
          std::exp(t[kRn])};
}

Vector Repetition::from_natural(const std::vector<double>& v) const {
  CAPSTAN_CHECK(v.size() == 7, "{} values for repetition", v.size());
  Vector t{};
  std::copy(v.begin(), v.end(), t.begin());
  t[kA] = v[kA] * std::exp(-v[kAlpha] * centre_n_);
  t[kB] = v[kB] * std::exp(-v[kBeta] * centre_d_);
  t[kRd] = std::log(v[kRd]);
  t[kRn] = std::log(v[kRn]);
  return t;
}

}  // namespace capstan::scaling
