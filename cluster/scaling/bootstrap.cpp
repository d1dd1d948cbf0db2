#include "cluster/scaling/bootstrap.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/random.h"

namespace capstan::scaling {
namespace {

double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at), above = std::min(below + 1, sorted.size() - 1);
  if (sorted[below] == sorted[above]) return sorted[below];  // also infinities
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

std::vector<double> drawn_weights(const Measurements& table, Random random) {
  const size_t runs = static_cast<size_t>(table.runs());
  std::vector<int> times(runs, 0);
  for (size_t i = 0; i < runs; ++i) ++times[random.below(runs)];
  std::vector<double> weights(table.size());
  for (size_t i = 0; i < table.size(); ++i) weights[i] = table.weight[i] * times[table.run[i]];
  return weights;
}

/// Two distinct values of every quantity that varies in the whole table, and as many rows as parameters.
bool identifiable(const Measurements& table, const std::vector<double>& weights, int parameters) {
  double least_n = kInfinity, most_n = 0, least_d = kInfinity, most_d = 0;
  int rows = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0)) continue;
    ++rows;
    least_n = std::min(least_n, table.parameters[i]);
    most_n = std::max(most_n, table.parameters[i]);
    least_d = std::min(least_d, table.tokens[i]);
    most_d = std::max(most_d, table.tokens[i]);
  }
  const auto varies = [](double least, double most) { return most > least * (1 + 1e-6); };
  const auto [n0, n1] = std::minmax_element(table.parameters.begin(), table.parameters.end());
  const auto [d0, d1] = std::minmax_element(table.tokens.begin(), table.tokens.end());
  return rows >= parameters && (varies(least_n, most_n) || !varies(*n0, *n1)) &&
         (varies(least_d, most_d) || !varies(*d0, *d1));
}

/// What one replicate comes to; nothing where it drew too little.
enum class Outcome : char { kept, unidentifiable, unconverged };

}  // namespace

Intervals percentile_intervals(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {{quantile(values, 0.16), quantile(values, 0.84)}, {quantile(values, 0.025), quantile(values, 0.975)}};
}

Residual replicate_cost(const Fit& fit) {
  Residual kind = fit.residual;
  if (kind.cost == Cost::l2 || fit.residuals.empty()) return kind;
  std::vector<double> sizes;
  for (const double r : fit.residuals) sizes.push_back(std::abs(r));
  std::sort(sizes.begin(), sizes.end());
  const double typical = sizes[sizes.size() / 2];
  if (kind.cost == Cost::huber && typical <= kind.delta) return kind;
  const double width = 0.8 * typical * std::pow(static_cast<double>(sizes.size()) / 50, -0.2);
  if (!(width > 0)) return kind;
  return {Cost::huber, kind.cost == Cost::huber ? std::max(width, kind.delta) : width, kind.on_log};
}

Bootstrap bootstrap(const Fit& fit, const Measurements& table, size_t count, uint64_t seed, int threads,
                    const Progress& progress) {
  const Sample sample = sample_of(table);
  const Model& model = *fit.model;
  const Residual kind = replicate_cost(fit);
  Bootstrap out;
  out.asked = count;
  out.smoothed = kind.cost != fit.residual.cost || kind.delta != fit.residual.delta;
  Vector centre = fit.theta;
  if (out.smoothed) centre = minimize(Objective(model, sample, sample.weight), kind, fit.theta).theta;
  std::vector<Vector> thetas(count);
  std::vector<Outcome> outcomes(count, Outcome::kept);
  const auto replicate = [&](size_t i) {
    const std::vector<double> weights = drawn_weights(table, Random(seed, i));
    if (!identifiable(table, weights, model.free_count())) {
      outcomes[i] = Outcome::unidentifiable;
      return;
    }
    const Minimum found = minimize(Objective(model, sample, weights), kind, centre);
    if (!found.converged) outcomes[i] = Outcome::unconverged;
    for (int k = 0; k < model.size(); ++k)
      thetas[i][k] = std::clamp(found.theta[k] + (fit.theta[k] - centre[k]), model.lower()[k], model.upper()[k]);
  };
  parallel_for(count, threads, replicate, progress);
  for (size_t i = 0; i < count; ++i) {
    out.unidentifiable += outcomes[i] == Outcome::unidentifiable;
    out.unconverged += outcomes[i] == Outcome::unconverged;
    if (outcomes[i] == Outcome::kept) out.replicates.push_back(thetas[i]);
  }
  return out;
}

}  // namespace capstan::scaling
