// label: slow
// Do 95% intervals hold the truth 95 times in 100? Many tables from known surfaces, each fitted and bootstrapped.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <mutex>

#include "cluster/scaling/decision.h"
#include "cluster/scaling/profile.h"
#include "tests/cluster/scaling_testing.h"

namespace capstan::scaling {
namespace {

constexpr int kTrials = 200;
constexpr size_t kReplicates = 200;

struct Asked {
  std::string name;
  double truth;
  std::function<double(const Model&, const Vector&)> value;
};

std::vector<Asked> questions(const Truth& truth, double flops) {
  const auto constant = [](int i) { return [i](const Model& m, const Vector& v) { return m.natural(v)[i]; }; };
  const auto decided = [flops](double Decision::*part) {
    return
        [flops, part](const Model& m, const Vector& v) { return decide(Form::chinchilla, m, v, flops, {}, {}).*part; };
  };
  return {{"E", truth.e, constant(0)},
          {"A", truth.a, constant(1)},
          {"B", truth.b, constant(2)},
          {"alpha", truth.alpha, constant(3)},
          {"beta", truth.beta, constant(4)},
          {"N*", truth.best_n(flops), decided(&Decision::n)},
          {"D*", flops / 6 / truth.best_n(flops), decided(&Decision::d)},
          {"loss", truth.best_loss(flops), decided(&Decision::loss)}};
}

struct Hits {
  int p68 = 0, p95 = 0;
};

void expect_coverage(const Residual& residual, int budgets, int sizes, double noise) {
  const Truth truth;
  const double flops = 1e18 * std::pow(3.2, budgets - 1) * 10;  // ten times beyond the table
  std::map<std::string, Hits> hits;
  std::mutex guard;
  parallel_for(kTrials, 0, [&](size_t trial) {
    const Measurements table = isoflop_table(truth, budgets, sizes, noise, trial);
    const Fit fit = fit_law(Form::chinchilla, table, residual, {});
    const Bootstrap drawn = bootstrap(fit, table, kReplicates, trial, 1);
    for (const Asked& asked : questions(truth, flops)) {
      std::vector<double> values;
      for (const Vector& theta : drawn.replicates) values.push_back(asked.value(*fit.model, theta));
      const Intervals found = percentile_intervals(values);
      const auto holds = [&](const Interval& i) { return i.low <= asked.truth && asked.truth <= i.high; };
      const std::lock_guard<std::mutex> lock(guard);
      hits[asked.name].p68 += holds(found.p68);
      hits[asked.name].p95 += holds(found.p95);
    }
  });
  for (const auto& [name, hit] : hits) {
    const double p68 = 100.0 * hit.p68 / kTrials, p95 = 100.0 * hit.p95 / kTrials;
    std::printf("  %-6s 68%%: %.1f   95%%: %.1f\n", name.c_str(), p68, p95);
    EXPECT_GE(p68, 60) << name;
    EXPECT_LE(p68, 76) << name;
    EXPECT_GE(p95, 91) << name;
    EXPECT_LE(p95, 98) << name;
  }
}

TEST(ScalingCoverage, Huber) { expect_coverage({Cost::huber, 1e-3, true}, 6, 8, 0.005); }
TEST(ScalingCoverage, HuberManyRuns) { expect_coverage({Cost::huber, 1e-3, true}, 8, 12, 0.01); }
TEST(ScalingCoverage, LeastSquares) { expect_coverage({Cost::l2, 0, true}, 6, 8, 0.005); }
TEST(ScalingCoverage, LeastAbsolute) { expect_coverage({Cost::l1, 0, true}, 6, 8, 0.005); }
TEST(ScalingCoverage, HuberOnRawLosses) { expect_coverage({Cost::huber, 1e-3, false}, 6, 8, 0.005); }

}  // namespace
}  // namespace capstan::scaling
