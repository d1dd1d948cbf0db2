#include "cluster/lab/learning_rate_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "cluster/lab/sweep_plan.h"
#include "cluster/scaling/frontier.h"

namespace capstan {
namespace {

using Losses = std::map<double, double>;  // by rate; infinite where the run diverged or failed

/// From a quarter to three quarters of the sizes that the search's budget is meant for, `count` of them.
std::vector<size_t> searched_sizes(const std::vector<size_t>& sizes, size_t count) {
  std::vector<size_t> out;
  for (size_t i = 0; i < count; ++i) {
    const double share = count == 1 ? 0.5 : 0.25 + 0.5 * static_cast<double>(i) / static_cast<double>(count - 1);
    const size_t at = sizes[static_cast<size_t>(std::lround(share * static_cast<double>(sizes.size() - 1)))];
    if (std::find(out.begin(), out.end(), at) == out.end()) out.push_back(at);
  }
  return out;
}

Losses::const_iterator least_of(const Losses& losses) {
  return std::min_element(losses.begin(), losses.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; });
}

/// The next rate where the least loss stands at an end, by the step between the two rates there; 0: it is inside.
double rate_beyond(const Losses& losses) {
  const auto least = least_of(losses);
  if (least == losses.begin()) return least->first * least->first / std::next(least)->first;
  if (std::next(least) == losses.end()) return least->first * least->first / std::prev(least)->first;
  return 0;
}

/// Minimum of the parabola through the least loss, which is inside, and its neighbours. Beside a run that diverged
/// there is no parabola: the best trial itself is taken.
double rate_inside(const Losses& losses) {
  const auto least = least_of(losses), below = std::prev(least), above = std::next(least);
  const double x1 = std::log(below->first), x2 = std::log(least->first), x3 = std::log(above->first);
  const double y1 = below->second, y2 = least->second, y3 = above->second;
  const double top = (x2 - x1) * (x2 - x1) * (y2 - y3) - (x2 - x3) * (x2 - x3) * (y2 - y1);
  const double bottom = (x2 - x1) * (y2 - y3) - (x2 - x3) * (y2 - y1);
  if (bottom == 0 || !std::isfinite(top / bottom)) return least->first;
  return std::exp(std::clamp(x2 - 0.5 * top / bottom, x1, x3));
}

}  // namespace

LearningRateSearch::LearningRateSearch(const SweepSpec& spec, const std::vector<SweepSize>& sizes,
                                       const std::vector<RunRecord>& records) {
  const SweepSpec::LearningRate& rule = spec.learning_rate;
  value_ = rule.value, reference_n_ = rule.reference_n;
  exponent_ = rule.rule == SweepSpec::Rule::fixed ? 0 : rule.exponent;
  if (rule.rule != SweepSpec::Rule::search) return;
  std::vector<double> candidates = rule.candidates, n, rates;
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  for (const size_t index :
       searched_sizes(sizes_of_budget(spec, sizes, rule.search_flops), static_cast<size_t>(rule.search_sizes))) {
    const std::optional<Best> best = search_size(sizes[index], index, candidates, records);
    if (!best) continue;
    n.push_back(sizes[index].n), rates.push_back(best->rate);
    notes_.push_back(fmt::format("learning rate: {:.3g} is best at {}{}", best->rate, sizes[index].label,
                                 best->edge ? ", the edge of all that was tried: choose other candidates" : ""));
  }
  if (provisional_)
    value_ = candidates[candidates.size() / 2], exponent_ = 0;
  else
    follow(n, rates);
}

/// Nothing where trials are missing, or none came to an end.
std::optional<LearningRateSearch::Best> LearningRateSearch::search_size(const SweepSize& size, size_t index,
                                                                        std::vector<double> candidates,
                                                                        const std::vector<RunRecord>& records) {
  const size_t most = candidates.size() + static_cast<size_t>(kMostBeyond);
  Losses losses;
  bool missing = false;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double rate = candidates[i];
    const std::string id = fmt::format("{}-lr{}", size.label, short_number(rate));
    trials_.push_back({index, rate, id});
    const auto found = std::find_if(records.begin(), records.end(), [&](const RunRecord& r) { return r.run == id; });
    missing |= found == records.end();
    if (found != records.end())
      losses[rate] =
          found->done() && std::isfinite(found->loss) ? found->loss : std::numeric_limits<double>::infinity();
    if (missing || i + 1 < candidates.size()) continue;
    const auto least = least_of(losses);
    if (!std::isfinite(least->second)) return {};
    const double beyond = rate_beyond(losses);
    if (beyond == 0) return Best{rate_inside(losses), false};
    if (candidates.size() == most) return Best{least->first, true};
    candidates.push_back(beyond);
  }
  provisional_ = true;
  return {};
}

/// A power law through the sizes that were searched.
void LearningRateSearch::follow(const std::vector<double>& n, const std::vector<double>& rates) {
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
