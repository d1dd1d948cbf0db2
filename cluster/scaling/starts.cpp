#include "cluster/scaling/starts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cluster/scaling/nnls.h"

namespace capstan::scaling {
namespace {

constexpr int kReweightings = 6;
constexpr size_t kBest = 12, kSpread = 36;

/// How much a row counts in the reweighted squares: slope / r, limited near zero.
double square_weight(const Residual& kind, double r, double scale) {
  if (kind.cost == Cost::l2) return 1;
  const double least = kind.cost == Cost::huber ? kind.delta : 1e-4 * scale;
  return least / std::max(std::abs(r), least);
}

/// The power p that turns the law into a linear sum: target_i = L_i^(1/p).
struct LinearProblem {
  const Objective& objective;
  const Residual& kind;
  Vector theta;

  void reweight_and_solve() {
    const Model& model = objective.model();
    const int count = model.linear();
    const double power = model.power(theta), scale = objective.scale(kind);
    Matrix gram{};
    Vector moment{}, columns{};
    for (const int i : objective.rows()) {
      model.columns(objective.sample().places[i], theta, columns);
      const double target = std::exp(objective.sample().log_loss[i] / power);
      double sum = 0, held = 0;
      for (int k = 0; k < count; ++k) {
        sum += theta[k] * columns[k];
        if (model.is_fixed(k)) held += theta[k] * columns[k];
      }
      // A residual is about slope * (sum - target); where nothing is known yet, taken at the measurement.
      const double loss = objective.sample().loss[i];
      const double slope = power / target * (kind.on_log ? 1 : loss);
      const double r = sum > 0 ? (kind.on_log ? power * std::log(sum / target) : std::pow(sum, power) - loss) : scale;
      const double weight = objective.weights()[i] * square_weight(kind, r, scale) * slope * slope;
      for (int k = 0; k < count; ++k) {
        if (model.is_fixed(k)) continue;
        moment[k] += weight * columns[k] * (target - held);
        for (int l = 0; l < count; ++l)
          if (!model.is_fixed(l)) gram[k][l] += weight * columns[k] * columns[l];
      }
    }
    const Vector solved = nonnegative_least_squares(gram, moment, count);
    for (int k = 0; k < count; ++k)
      if (!model.is_fixed(k)) theta[k] = std::max(solved[k], model.lower()[k]);
  }
};

struct Candidate {
  Vector theta;
  double value;
};

Candidate solved_at(const Objective& objective, const Residual& kind, Vector theta) {
  LinearProblem problem{objective, kind, theta};
  for (int i = 0; i < kReweightings; ++i) problem.reweight_and_solve();
  return {problem.theta, objective.value(kind, problem.theta)};
}

/// All combinations of the grids of the nonlinear coordinates.
std::vector<Vector> grid_points(const Model& model) {
  Vector base{};
  for (int i = 0; i < model.linear(); ++i) base[i] = model.is_fixed(i) ? model.lower()[i] : 0;
  std::vector<Vector> points{base};
  for (int i = model.linear(); i < model.size(); ++i) {
    std::vector<Vector> longer;
    for (const Vector& point : points)
      for (const double value : model.grid(i)) {
        longer.push_back(point);
        longer.back()[i] = value;
      }
    points = std::move(longer);
  }
  return points;
}

}  // namespace

std::vector<Vector> starting_points(const Objective& objective, const Residual& residual) {
  Residual kind = residual;
  if (kind.cost == Cost::l1) kind.delta = 0;
  std::vector<Candidate> candidates;
  for (const Vector& point : grid_points(objective.model())) candidates.push_back(solved_at(objective, kind, point));
  const size_t stride = std::max<size_t>(1, candidates.size() / kSpread);
  std::vector<Candidate> spread;
  for (size_t i = stride / 2; i < candidates.size(); i += stride) spread.push_back(candidates[i]);
  const auto better = [](const Candidate& a, const Candidate& b) { return a.value < b.value; };
  std::stable_sort(candidates.begin(), candidates.end(), better);
  candidates.resize(std::min(candidates.size(), kBest));
  candidates.insert(candidates.end(), spread.begin(), spread.end());
  std::stable_sort(candidates.begin(), candidates.end(), better);
  std::vector<Vector> out;
  for (const Candidate& candidate : candidates)
    if (std::isfinite(candidate.value) && std::find(out.begin(), out.end(), candidate.theta) == out.end())
      out.push_back(candidate.theta);
  return out;
}

}  // namespace capstan::scaling
