#include <algorithm>
#include <cmath>
#include <map>

#include "cluster/scaling/frontier.h"
#include "cluster/scaling/random.h"
#include "cluster/scaling/small.h"
#include "core/error.h"

namespace capstan::scaling {
namespace {

constexpr int kSteps = 1500;  // values of C, as in the paper

/// Loss and tokens along C for one size, in logarithms, C ascending.
struct Curve {
  double n = 0;
  std::vector<double> ln_c, ln_loss, ln_d;
  bool covers(double at) const { return at >= ln_c.front() && at <= ln_c.back(); }
  double interpolated(const std::vector<double>& y, double at) const {
    size_t above = static_cast<size_t>(std::lower_bound(ln_c.begin(), ln_c.end(), at) - ln_c.begin());
    above = std::clamp<size_t>(above, 1, ln_c.size() - 1);
    const double share = (at - ln_c[above - 1]) / (ln_c[above] - ln_c[above - 1]);
    return y[above - 1] + share * (y[above] - y[above - 1]);
  }
};

/// Of rows at one C the best is kept; a curve of one point is none.
bool make_curve(const Measurements& table, std::vector<size_t> rows, Curve& out) {
  std::sort(rows.begin(), rows.end(), [&](size_t a, size_t b) {
    return table.flops[a] != table.flops[b] ? table.flops[a] < table.flops[b] : table.loss[a] < table.loss[b];
  });
  out = Curve{};
  for (const size_t i : rows) {
    const double ln_c = std::log(table.flops[i]);
    if (!out.ln_c.empty() && ln_c <= out.ln_c.back() + 1e-9) continue;
    out.ln_c.push_back(ln_c);
    out.ln_loss.push_back(std::log(table.loss[i]));
    out.ln_d.push_back(std::log(table.tokens[i]));
    out.n += std::log(table.parameters[i]);
  }
  if (out.ln_c.size() < 2) return false;
  out.n = std::exp(out.n / static_cast<double>(out.ln_c.size()));
  return true;
}

std::vector<Curve> curves_of(const Measurements& table) {
  std::map<int, std::vector<size_t>> by_run;
  for (size_t i = 0; i < table.size(); ++i) by_run[table.run[i]].push_back(i);
  std::vector<std::vector<size_t>> groups;
  for (const auto& [run, rows] : by_run)
    if (rows.size() > 1) groups.push_back(rows);
  if (groups.empty()) groups = groups_of(table.parameters, 1.01);
  std::vector<Curve> curves;
  for (const std::vector<size_t>& rows : groups)
    if (Curve curve; make_curve(table, rows, curve)) curves.push_back(std::move(curve));
  return curves;
}

struct Winners {
  std::vector<double> c, n, d, loss;
  size_t at_edge = 0;
};

/// The best curve at each C, where two curves or more can be compared and neither the smallest nor the largest size of
/// all has won: beyond those a size that nobody tried may be better.
Winners winners_among(const std::vector<const Curve*>& curves, double least_n, double most_n) {
  double low = kInfinity, high = -kInfinity;
  for (const Curve* curve : curves) {
    low = std::min(low, curve->ln_c.front());
    high = std::max(high, curve->ln_c.back());
  }
  Winners out;
  for (int i = 0; i < kSteps && !curves.empty(); ++i) {
    const double at = low + (high - low) * i / (kSteps - 1);
    const Curve* best = nullptr;
    double least = kInfinity;
    int compared = 0;
    for (const Curve* curve : curves) {
      if (!curve->covers(at)) continue;
      ++compared;
      const double loss = curve->interpolated(curve->ln_loss, at);
      if (loss < least) {
        least = loss;
        best = curve;
      }
    }
    if (compared < 2) continue;
    if (best->n <= least_n * 1.001 || best->n >= most_n / 1.001) {
      ++out.at_edge;
      continue;
    }
    out.c.push_back(std::exp(at));
    out.n.push_back(best->n);
    out.d.push_back(std::exp(best->interpolated(best->ln_d, at)));
    out.loss.push_back(std::exp(least));
  }
  return out;
}

}  // namespace

Frontier envelope_frontier(const Measurements& table, size_t replicates, uint64_t seed, int threads,
                           const Progress& progress) {
  const std::vector<Curve> curves = curves_of(table);
  std::vector<const Curve*> all;
  double least_n = kInfinity, most_n = 0;
  for (const Curve& curve : curves) {
    all.push_back(&curve);
    least_n = std::min(least_n, curve.n);
    most_n = std::max(most_n, curve.n);
  }
  const Winners winners = winners_among(all, least_n, most_n);
  const size_t sizes = distinct(winners.n);
  if (winners.c.size() < 2 || sizes < 2)
    throw Error::make(
        ExitCode::bad_data,
        "refused: an envelope needs training curves of several sizes that cross; of {} curves {} sizes won "
        "somewhere without being the smallest or largest of all ({} of {} values of C were won at that "
        "edge). Give runs measured along the way (--run), or sizes trained for several lengths",
        curves.size(), sizes, winners.at_edge, kSteps);
  Frontier out;
  out.points = winners.c.size();
  out.n = power_law_through(winners.c, winners.n);
  out.d = power_law_through(winners.c, winners.d);
  out.loss = power_law_through(winners.c, winners.loss);
  for (const std::vector<size_t>& group : groups_of(winners.n, 1 + 1e-6)) {
    BudgetOptimum won;
    const size_t middle = group[group.size() / 2];
    won.rows = group.size();
    won.n = winners.n[middle];
    won.flops = winners.c[middle];
    won.d = winners.d[middle];
    won.loss = winners.loss[middle];
    won.used = true;
    out.budgets.push_back(won);
  }
  std::vector<Winners> drawn(replicates);
  parallel_for(
      replicates, threads,
      [&](size_t i) {
        Random random(seed, i);
        std::vector<const Curve*> some;
        for (size_t k = 0; k < curves.size(); ++k) some.push_back(&curves[random.below(curves.size())]);
        drawn[i] = winners_among(some, least_n, most_n);
      },
      progress);
  for (const Winners& w : drawn) {
    if (w.c.size() < 2 || distinct(w.n) < 2) {
      ++out.failed_replicates;
      continue;
    }
    out.n_replicates.push_back(power_law_through(w.c, w.n));
    out.d_replicates.push_back(power_law_through(w.c, w.d));
    out.loss_replicates.push_back(power_law_through(w.c, w.loss));
  }
  return out;
}

}  // namespace capstan::scaling
