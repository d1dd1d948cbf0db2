// label: cpu
// The forecast of a held-out budget: two views of one ladder, weighted by how each foresaw the largest budget.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cluster/lab/prediction.h"
#include "cluster/lab/sweep_plan.h"
#include "core/error.h"

namespace capstan {
namespace {

using testing::HasSubstr;

constexpr double kBudget = 6.4e10;

SweepSpec ladder(const std::string& budgets) {
  return parse_sweep(
      "[model]\ncontext = 32\npositions = \"alibi\"\n[data]\ncorpora = [\"nowhere\"]\n[sweep.sizes]\n"
      "shapes = [\"8x1\", \"16x2\", \"24x2\", \"32x3\", \"48x3\", \"64x3\"]\nhead_size = 8\n[sweep.budgets]\nflops = " +
          budgets + "\n[sweep.batch]\nsequences = 1\n[sweep.held_out]\nflops = 6.4e10\n",
      "s.toml");
}

/// Every run of the ladder measured as `loss` has it.
template <typename Loss>
std::vector<RunRecord> measured(const SweepSpec& spec, Loss loss) {
  std::vector<RunRecord> records;
  for (const PlannedRun& run : plan_sweep(spec, 257, {}).runs) {
    if (run.kind != "ladder") continue;
    RunRecord record;
    record.run = run.id, record.kind = run.kind, record.tokens = run.tokens, record.flops_half = run.flops;
    record.unique_tokens = run.tokens, record.seed = run.seed;
    record.n_total = 0;
    for (const SweepSize& size : sweep_sizes(spec, 257))
      if (run.id.starts_with(size.label + "-")) record.n_total = static_cast<int64_t>(size.n);
    record.loss = loss(static_cast<double>(record.n_total), run.tokens, run.flops);
    records.push_back(record);
  }
  return records;
}

double with_floor(double n, double d, double) { return 1 + 60 / std::sqrt(n) + 67 / std::sqrt(d); }

/// A power law of C at the optimum, dearer off it: no floor anywhere.
double without_floor(double n, double, double c) {
  const double off = std::log(n / (2e4 * std::sqrt(c / 4e9)));
  return 30 * std::pow(c, -0.12) * (1 + 0.03 * off * off);
}

TEST(LabPrediction, TheViewThatForesawBetterHasTheWeight) {
  EXPECT_DOUBLE_EQ(weight_by_errors(0.01, -0.03), 0.75);
  EXPECT_DOUBLE_EQ(weight_by_errors(-0.03, -0.01), 0.25);
  EXPECT_DOUBLE_EQ(weight_by_errors(0, 0), 0.5);
  EXPECT_NEAR(weight_by_errors(0, 0.019), 0.95, 1e-9);
}

TEST(LabPrediction, WhatHasAFloorIsForeseenByTheLaw) {
  const SweepSpec spec = ladder("[1e9, 4e9, 1.6e10]");
  const HeldOutPrediction p = predict_held_out(spec, 257, measured(spec, with_floor));
  const double truth = with_floor(p.n, p.d, kBudget);
  EXPECT_GT(p.law_weight, 0.8) << p.basis;
  EXPECT_NEAR(p.law_loss / truth, 1, 1e-3);
  EXPECT_LT(p.trend_loss, truth * 0.995);
  EXPECT_NEAR(p.loss / truth, 1, 0.004) << p.basis;
  EXPECT_LE(p.low, p.trend_loss);
  EXPECT_THAT(p.basis, HasSubstr("% the trend of the minima"));
}

TEST(LabPrediction, WhatHasNoneIsForeseenByTheTrend) {
  const SweepSpec spec = ladder("[1e9, 4e9, 1.6e10]");
  const HeldOutPrediction p = predict_held_out(spec, 257, measured(spec, without_floor));
  const double truth = 30 * std::pow(kBudget, -0.12);
  EXPECT_LT(p.law_weight, 0.5) << p.basis;
  EXPECT_NEAR(p.trend_loss / truth, 1, 0.004);
  EXPECT_GT(p.law_loss, p.loss);
  EXPECT_NEAR(p.loss / truth, 1, 0.02) << p.basis;
}

TEST(LabPrediction, WhereOneViewIsMissingTheOtherSpeaks) {
  const SweepSpec two = ladder("[1e9, 4e9]");  // a trend through two minima has no back-test
  const HeldOutPrediction p = predict_held_out(two, 257, measured(two, with_floor));
  EXPECT_EQ(p.law_weight, 1);
  EXPECT_EQ(p.loss, p.law_loss);
  EXPECT_GT(p.trend_loss, 0);
  const HeldOutPrediction none = predict_held_out(two, 257, {});
  EXPECT_EQ(none.law_loss, 0);
  EXPECT_THAT(none.basis, HasSubstr("carry no law"));
}

TEST(LabPrediction, ALadderOfOneDepthIsContinuedAtThatDepth) {
  SweepSpec spec = ladder("[1e9, 4e9]");
  spec.sizes.shapes = {"16x3", "24x3", "48x3"};
  spec.budgets.centre_flops = kBudget, spec.budgets.centre_n = 4e5;
  const HeldOutPrediction p = predict_held_out(spec, 257, {});
  EXPECT_EQ(p.layers, 3) << p.shape;
  EXPECT_NEAR(p.n / 4e5, 1, 0.1) << p.shape;
  spec.sizes.shapes = {"16x2", "48x3"};
  EXPECT_NE(predict_held_out(spec, 257, {}).layers, 3);
}

TEST(LabPrediction, IsReadBackAsItWasWritten) {
  HeldOutPrediction p;
  p.flops = 3e13, p.best_n = 1e5, p.best_d = 1e7, p.best_loss = 1.25, p.n = 9e4, p.d = 1.5e7, p.loss = 1.125;
  p.low = 1, p.high = 1.5, p.law_loss = 1.375, p.trend_loss = 0.875, p.law_weight = 0.75;
  p.shape = "80x3", p.width = 80, p.layers = 3, p.basis = "both";
  const HeldOutPrediction q = HeldOutPrediction::from_json(p.to_json(), "there");
  EXPECT_EQ(q.to_json(), p.to_json());
  EXPECT_EQ(q.law_weight, 0.75);
  std::string older = p.to_json();  // of a program that asked the law alone
  for (const std::string key : {"\"law_loss\":1.375E0,", "\"law_weight\":7.5E-1,"}) {
    ASSERT_NE(older.find(key), std::string::npos) << older;
    older.erase(older.find(key), key.size());
  }
  EXPECT_EQ(HeldOutPrediction::from_json(older, "there").law_weight, 1);
  EXPECT_THROW(HeldOutPrediction::from_json("{\"flops\": 1}", "there"), Error);
}

}  // namespace
}  // namespace capstan
