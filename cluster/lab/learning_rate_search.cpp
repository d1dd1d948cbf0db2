#include "cluster/lab/learning_rate_search.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cluster/lab/sweep_plan.h"
#include "cluster/scaling/frontier.h"

namespace capstan {
namespace {

/// Sizes from a quarter to three quarters of the ladder, `count` of them.
std::vector<size_t> searched_sizes(size_t sizes, size_t count) {
  std::vector<size_t> out;
  for (size_t i = 0; i < count; ++i) {
    const double share = count == 1 ? 0.5 : 0.25 + 0.5 * static_cast<double>(i) / static_cast<double>(count - 1);
    const auto at = static_cast<size_t>(std::lround(share * static_cast<double>(sizes - 1)));
    if (std::find(out.begin(), out.end(), at) == out.end()) out.push_back(at);
  }
  return out;
}

struct Best {
  double rate = 0;
  bool edge = false;
};

/// `losses` by rate, at least one.
Best best_rate(const std::map<double, double>& losses) {
  const auto least =
      std::min_element(losses.begin(), losses.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (least == losses.begin() || std::next(least) == losses.end()) return {least->first, true};
  const auto below = std::prev(least), above = std::next(least);
  const double x1 = std::log(below->first), x2 = std::log(least->first), x3 = std::log(above->first);
  const double y1 = below->second, y2 = least->second, y3 = above->second;
  const double top = (x2 - x1) * (x2 - x1) * (y2 - y3) - (x2 - x3) * (x2 - x3) * (y2 - y1);
  const double bottom = (x2 - x1) * (y2 - y3) - (x2 - x3) * (y2 - y1);
  if (bottom == 0) return {least->first, false};
  return {std::exp(std::clamp(x2 - 0.5 * top / bottom, x1, x3)), false};
}

}  // namespace

LearningRateSearch::LearningRateSearch(const SweepSpec& spec, const std::vector<SweepSize>& sizes,
                                       const std::vector<RunRecord>& records) {
  const SweepSpec::LearningRate& rule = spec.learning_rate;
  value_ = rule.value, reference_n_ = rule.reference_n;
  exponent_ = rule.rule == SweepSpec::Rule::fixed ? 0 : rule.exponent;
  if (rule.rule != SweepSpec::Rule::search) return;
  for (const size_t size : searched_sizes(sizes.size(), static_cast<size_t>(rule.search_sizes)))
    for (const double rate : rule.candidates)
      trials_.push_back({size, rate, fmt::format("{}-lr{}", sizes[size].label, short_number(rate))});
  find_best(spec, sizes, records);
}

void LearningRateSearch::find_best(const SweepSpec& spec, const std::vector<SweepSize>& sizes,
                                   const std::vector<RunRecord>& records) {
  std::map<size_t, std::map<double, double>> losses;
  for (const Trial& trial : trials_) {
    const auto found =
        std::find_if(records.begin(), records.end(), [&](const RunRecord& r) { return r.run == trial.id; });
    if (found == records.end()) provisional_ = true;
    if (found != records.end() && found->done() && std::isfinite(found->loss))
      losses[trial.size][trial.rate] = found->loss;
  }
  if (provisional_) {
    const std::vector<double>& c = spec.learning_rate.candidates;
    value_ = c[c.size() / 2], exponent_ = 0;
    return;
  }
  std::vector<double> n, rates;
  for (const auto& [size, by_rate] : losses) {
    const Best best = best_rate(by_rate);
    n.push_back(sizes[size].n), rates.push_back(best.rate);
    notes_.push_back(fmt::format("learning rate: {:.3g} is best at {}{}", best.rate, sizes[size].label,
                                 best.edge ? ", the edge of what was tried: add candidates beyond it" : ""));
  }
  if (n.empty()) {
    notes_.push_back("learning rate: no trial of the search came to an end; sweep.learning_rate.value is used");
  } else if (n.size() == 1) {
    value_ = rates[0], reference_n_ = n[0];
  } else {
    const scaling::PowerLaw law = scaling::power_law_through(n, rates);
    reference_n_ = std::sqrt(n.front() * n.back()), value_ = law.at(reference_n_);
    exponent_ = std::clamp(law.exponent, -1.0, 0.0);  // larger models do not want larger rates: that would be noise
    notes_.push_back(fmt::format("learning rate: {:.3g} (N / {:.3g})^{:.2f}", value_, reference_n_, exponent_));
  }
}

LearningRateSearch::Rate LearningRateSearch::rate(double n) const {
  return {value_ * std::pow(n / reference_n_, exponent_), provisional_};
}

}  // namespace capstan
