#include "cluster/scaling/decision.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/repetition.h"
#include "core/error.h"

namespace capstan::scaling {

TokenCost::TokenCost(const Measurements& table) {
  if (!table.flops_measured || !table.has_parameters || !table.has_tokens) return;
  bool differs = false;
  for (const std::vector<size_t>& group : groups_of(table.parameters, 1.001)) {
    Knot knot{0, 0};
    for (const size_t i : group) {
      knot.ln_n += std::log(table.parameters[i]) / static_cast<double>(group.size());
      knot.ln_ratio +=
          std::log(table.flops[i] / (6 * table.parameters[i] * table.tokens[i])) / static_cast<double>(group.size());
    }
    differs = differs || std::abs(knot.ln_ratio) > 0.01;
    ratios_.push_back(knot);
  }
  if (!differs) ratios_.clear();
}

double TokenCost::per_token(double n) const {
  if (ratios_.empty()) return 6 * n;
  const double x = std::log(n);
  const auto above =
      std::lower_bound(ratios_.begin(), ratios_.end(), x, [](const Knot& k, double at) { return k.ln_n < at; });
  if (above == ratios_.begin()) return 6 * n * std::exp(ratios_.front().ln_ratio);
  if (above == ratios_.end()) return 6 * n * std::exp(ratios_.back().ln_ratio);
  const Knot& below = *(above - 1);
  const double share = (x - below.ln_n) / (above->ln_n - below.ln_n);
  return 6 * n * std::exp(below.ln_ratio + share * (above->ln_ratio - below.ln_ratio));
}

bool can_allocate(Form form) {
  return form == Form::chinchilla || form == Form::gadre || form == Form::kaplan_nd || form == Form::repetition;
}

bool can_predict_from_budget(Form form) { return can_allocate(form) || form == Form::kaplan_c; }

bool is_closed_form(Form form, const TokenCost& cost, const Limits& limits) {
  return (form == Form::chinchilla || form == Form::gadre) && cost.is_6nd() && !limits.any();
}

double loss_at(Form form, const Model& model, const Vector& theta, double n, double d, double flops,
               const Limits& limits) {
  Place place{std::log(n), std::log(d), std::log(flops), std::log(d)};
  if (limits.unique_tokens > 0 && d > limits.unique_tokens) {
    place.ln_u = std::log(limits.unique_tokens);
    if (form != Form::repetition) {
      place.ln_d = log_effective(place.ln_d, place.ln_u, limits.repetition);
      if (form == Form::gadre) place.ln_c = std::log(6.0) + place.ln_n + place.ln_d;
    }
  }
  return std::exp(model.log_loss(place, theta, nullptr, nullptr));
}

namespace {

/// L = E + A/N^alpha + B/D^beta on 6 N D = C: N* = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta
/// B))^(1/(alpha+beta)).
Decision closed_form(Form form, const Model& model, const Vector& theta, double budget) {
  const std::vector<double> v = model.natural(theta);
  double a = v[1], b = v[2], alpha = v[3], beta = v.back();
  if (form == Form::gadre) {  // a M^eta C^-eta = a 6^-eta N^-2eta, and so for b and D
    alpha = beta = 2 * v[3];
    a *= std::pow(6, -v[3]);
    b *= std::pow(6, -v[3]);
  }
  Decision out;
  const double ln_g = std::log(alpha * a / (beta * b)) / (alpha + beta), ln_nd = std::log(budget / 6);
  out.n = std::exp(ln_g + ln_nd * beta / (alpha + beta));
  out.d = budget / 6 / out.n;
  out.loss = loss_at(form, model, theta, out.n, out.d, budget, {});
  return out;
}

class Search {
 public:
  Search(Form form, const Model& model, const Vector& theta, double budget, const TokenCost& cost, const Limits& limits)
      : form_(form), model_(model), theta_(theta), budget_(budget), cost_(cost), limits_(limits) {}

  Decision best() const {
    const double most = std::log(budget_);  // beyond it the budget does not pay for one token
    constexpr int kScan = 256;
    int at = 0;
    double least = kInfinity;
    for (int i = 0; i <= kScan; ++i) {
      const double loss = decision(most * i / kScan).loss;
      if (loss < least) {
        least = loss;
        at = i;
      }
    }
    return golden(most * std::max(at - 1, 0) / kScan, most * std::min(at + 1, kScan) / kScan);
  }

 private:
  Decision decision(double ln_n) const {
    const double n = std::exp(ln_n), per_token = cost_.per_token(n);
    const double d = budget_ / per_token - limits_.inference_tokens / 3;
    if (!(d >= 1)) return {n, d, kInfinity};
    return {n, d, loss_at(form_, model_, theta_, n, d, d * per_token, limits_)};
  }

  Decision golden(double low, double high) const {
    const double ratio = (std::sqrt(5.0) - 1) / 2;
    double x1 = high - ratio * (high - low), x2 = low + ratio * (high - low);
    double f1 = decision(x1).loss, f2 = decision(x2).loss;
    for (int i = 0; i < 60; ++i) {
      if (f1 < f2) {
        high = x2;
        x2 = x1;
        f2 = f1;
        x1 = high - ratio * (high - low);
        f1 = decision(x1).loss;
      } else {
        low = x1;
        x1 = x2;
        f1 = f2;
        x2 = low + ratio * (high - low);
        f2 = decision(x2).loss;
      }
    }
    return decision((low + high) / 2);
  }

  Form form_;
  const Model& model_;
  const Vector& theta_;
  double budget_;
  const TokenCost& cost_;
  const Limits& limits_;
};

}  // namespace

Decision decide(Form form, const Model& model, const Vector& theta, double budget, const TokenCost& cost,
                const Limits& limits) {
  if (form == Form::kaplan_c) {
    const double loss = std::exp(model.log_loss({0, 0, std::log(budget), 0}, theta, nullptr, nullptr));
    return {0, 0, loss};
  }
  if (!can_allocate(form))
    throw Error::make(ExitCode::usage, "form {} knows only one of N and D and cannot split a budget", name_of(form));
  if (is_closed_form(form, cost, limits)) return closed_form(form, model, theta, budget);
  return Search(form, model, theta, budget, cost, limits).best();
}

}  // namespace capstan::scaling
