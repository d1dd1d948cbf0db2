#include <algorithm>
#include <cmath>

#include "cluster/scaling/frontier.h"
#include "cluster/scaling/linear_algebra.h"
#include "cluster/scaling/random.h"
#include "core/error.h"

namespace capstan::scaling {
namespace {

/// One budget: the rows, and the parabola loss = c0 + c1 x + c2 x^2 in x = ln N - centre.
struct Budget {
  double flops = 1, centre = 0;
  std::vector<double> x, ln_d, loss, weight;
  double least_x = kInfinity, most_x = -kInfinity;
  size_t sizes = 0;
};

Budget budget_of(const Measurements& table, const std::vector<size_t>& rows) {
  Budget b;
  double ln_flops = 0;
  const double count = static_cast<double>(rows.size());
  for (const size_t i : rows) {
    ln_flops += std::log(table.flops[i]) / count;
    b.centre += std::log(table.parameters[i]) / count;
  }
  b.flops = std::exp(ln_flops);
  std::vector<double> sizes;
  for (const size_t i : rows) {
    b.x.push_back(std::log(table.parameters[i]) - b.centre);
    b.ln_d.push_back(std::log(table.tokens[i]));
    b.loss.push_back(table.loss[i]);
    b.weight.push_back(table.weight[i]);
    b.least_x = std::min(b.least_x, b.x.back());
    b.most_x = std::max(b.most_x, b.x.back());
    sizes.push_back(table.parameters[i]);
  }
  b.sizes = distinct(sizes);
  return b;
}

/// Coefficients of the least squares parabola through y.
bool parabola(const Budget& b, const std::vector<double>& y, Vector& c) {
  Matrix gram{};
  Vector moment{};
  for (size_t i = 0; i < y.size(); ++i) {
    const double powers[3] = {1, b.x[i], b.x[i] * b.x[i]};
    for (int j = 0; j < 3; ++j) {
      moment[j] += b.weight[i] * powers[j] * y[i];
      for (int k = 0; k < 3; ++k) gram[j][k] += b.weight[i] * powers[j] * powers[k];
    }
  }
  return solve_positive(gram, moment, 3, c);
}

double value(const Vector& c, double x) { return c[0] + x * (c[1] + x * c[2]); }

/// ln D at x, along the straight line that the rows of one budget lie on (slope -1 where C = 6 N D).
double ln_tokens_at(const Budget& b, double x) {
  double mx = 0, my = 0, xx = 0, xy = 0;
  const double count = static_cast<double>(b.x.size());
  for (size_t i = 0; i < b.x.size(); ++i) {
    mx += b.x[i] / count;
    my += b.ln_d[i] / count;
  }
  for (size_t i = 0; i < b.x.size(); ++i) {
    xx += (b.x[i] - mx) * (b.x[i] - mx);
    xy += (b.x[i] - mx) * (b.ln_d[i] - my);
  }
  return my + xy / xx * (x - mx);
}

BudgetOptimum optimum_of(const Budget& b, const std::vector<double>& y, Vector& c) {
  BudgetOptimum out;
  out.flops = b.flops;
  out.rows = y.size();
  if (b.sizes < 4) {
    out.reason = fmt::format("{} distinct sizes; a parabola wants at least 4, and goes through any 3", b.sizes);
    return out;
  }
  if (!parabola(b, y, c)) {
    out.reason = "the sizes are too close together for a parabola";
    return out;
  }
  if (!(c[2] > 0)) {
    out.reason = "the losses do not curve upwards: no minimum";
    return out;
  }
  const double x = -c[1] / (2 * c[2]);
  out.n = std::exp(b.centre + x);
  out.d = std::exp(ln_tokens_at(b, x));
  out.loss = value(c, x);
  out.half_width = std::sqrt(std::max(0.01 * out.loss / c[2], 0.0));
  double square = 0;
  for (size_t i = 0; i < y.size(); ++i) square += std::pow(value(c, b.x[i]) / y[i] - 1, 2);
  out.rms_error = std::sqrt(square / static_cast<double>(y.size()));
  if (!(x > b.least_x && x < b.most_x) || !(out.loss > 0)) {
    out.reason = fmt::format("the minimum (N = {:.3g}) lies outside the sizes tried ({:.3g} to {:.3g}): add {} ones",
                             out.n, std::exp(b.centre + b.least_x), std::exp(b.centre + b.most_x),
                             x <= b.least_x ? "smaller" : "larger");
    return out;
  }
  const size_t least = static_cast<size_t>(std::min_element(y.begin(), y.end()) - y.begin());
  if (b.x[least] <= b.least_x + 1e-9 || b.x[least] >= b.most_x - 1e-9) {
    out.reason = fmt::format("the least loss is at the {} size tried: add {} ones",
                             b.x[least] <= b.least_x + 1e-9 ? "smallest" : "largest",
                             b.x[least] <= b.least_x + 1e-9 ? "smaller" : "larger");
    return out;
  }
  out.used = true;
  return out;
}

struct Laws {
  PowerLaw n, d, loss;
  bool found = false;
};

Laws laws_through(const std::vector<BudgetOptimum>& optima) {
  std::vector<double> c, n, d, loss;
  for (const BudgetOptimum& o : optima) {
    if (!o.used) continue;
    c.push_back(o.flops);
    n.push_back(o.n);
    d.push_back(o.d);
    loss.push_back(o.loss);
  }
  if (c.size() < 2) return {};
  return {power_law_through(c, n), power_law_through(c, d), power_law_through(c, loss), true};
}

/// Each budget's residuals, drawn again with replacement around its parabola and widened for the three numbers it used.
std::vector<double> redrawn(const Budget& b, const Vector& c, Random& random) {
  const size_t rows = b.loss.size();
  const double widen = std::sqrt(static_cast<double>(rows) / std::max(1.0, static_cast<double>(rows) - 3));
  double mean = 0;
  for (size_t i = 0; i < rows; ++i) mean += (b.loss[i] - value(c, b.x[i])) / static_cast<double>(rows);
  std::vector<double> y;
  for (size_t i = 0; i < rows; ++i) {
    const size_t from = random.below(rows);
    y.push_back(value(c, b.x[i]) + widen * (b.loss[from] - value(c, b.x[from]) - mean));
  }
  return y;
}

[[noreturn]] void refuse(const Frontier& frontier) {
  std::string reasons;
  for (const BudgetOptimum& o : frontier.budgets)
    reasons += fmt::format("\n  C = {:.4g} ({} rows): {}", o.flops, o.rows, o.used ? "usable" : o.reason);
  throw Error::make(ExitCode::bad_data, "refused: an IsoFLOP fit needs two budgets with a minimum inside; found {}:{}",
                    frontier.points, reasons);
}

}  // namespace

Frontier isoflop_frontier(const Measurements& table, double tolerance, size_t replicates, uint64_t seed, int threads,
                          const Progress& progress) {
  Frontier out;
  std::vector<Budget> budgets;
  std::vector<Vector> curves;
  for (const std::vector<size_t>& rows : groups_of(table.flops, tolerance)) {
    budgets.push_back(budget_of(table, rows));
    curves.emplace_back();
    out.budgets.push_back(optimum_of(budgets.back(), budgets.back().loss, curves.back()));
    out.points += out.budgets.back().used;
  }
  const Laws laws = laws_through(out.budgets);
  if (!laws.found) refuse(out);
  out.n = laws.n;
  out.d = laws.d;
  out.loss = laws.loss;
  std::vector<Laws> found(replicates);
  parallel_for(
      replicates, threads,
      [&](size_t i) {
        Random random(seed, i);
        std::vector<BudgetOptimum> optima;
        for (size_t b = 0; b < budgets.size(); ++b) {
          if (!out.budgets[b].used) continue;
          Vector unused{};
          optima.push_back(optimum_of(budgets[b], redrawn(budgets[b], curves[b], random), unused));
          // The refusal is for the measured table; a replicate's minimum counts wherever it curves upwards.
          optima.back().used = optima.back().n > 0 && optima.back().loss > 0;
        }
        found[i] = laws_through(optima);
      },
      progress);
  for (const Laws& replicate : found) {
    out.failed_replicates += !replicate.found;
    if (!replicate.found) continue;
    out.n_replicates.push_back(replicate.n);
    out.d_replicates.push_back(replicate.d);
    out.loss_replicates.push_back(replicate.loss);
  }
  return out;
}

}  // namespace capstan::scaling
