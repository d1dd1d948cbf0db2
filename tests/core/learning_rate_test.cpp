// label: plan
// Learning rate schedules against their closed forms at the ends and in the middle.

#include "core/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace capstan {
namespace {

using Kind = ScheduleConfig::Kind;
constexpr double kPeak = 3e-4;
constexpr int64_t kTotal = 1100, kWarmup = 100;

double rate(Kind kind, int64_t step, int64_t total = kTotal, int64_t warmup = kWarmup, double minimum = 0.1) {
  ScheduleConfig schedule;
  schedule.kind = kind, schedule.warmup_steps = warmup, schedule.minimum_ratio = minimum, schedule.decay_fraction = 0.2;
  return learning_rate_at(schedule, kPeak, step, total);
}
constexpr Kind kKinds[] = {Kind::cosine, Kind::linear, Kind::constant, Kind::inverse_sqrt, Kind::wsd};

TEST(LearningRate, WarmsUpInAStraightLine) {
  for (const Kind kind : kKinds) {
    EXPECT_DOUBLE_EQ(rate(kind, 0), kPeak / 100);
    EXPECT_DOUBLE_EQ(rate(kind, 49), kPeak / 2);
    EXPECT_DOUBLE_EQ(rate(kind, 99), kPeak);
    EXPECT_NEAR(rate(kind, 100), kPeak, 0.01 * kPeak);
  }
}

TEST(LearningRate, ClosedFormsInTheMiddleAndAtTheEnd) {
  EXPECT_DOUBLE_EQ(rate(Kind::cosine, 100), kPeak);
  EXPECT_DOUBLE_EQ(rate(Kind::cosine, 600), kPeak * 0.55);
  EXPECT_DOUBLE_EQ(rate(Kind::cosine, 350), kPeak * (0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2));
  EXPECT_DOUBLE_EQ(rate(Kind::cosine, 1100), kPeak * 0.1);
  EXPECT_DOUBLE_EQ(rate(Kind::linear, 100), kPeak);
  EXPECT_DOUBLE_EQ(rate(Kind::linear, 350), kPeak * 0.775);
  EXPECT_NEAR(rate(Kind::linear, 1100), kPeak * 0.1, 1e-14 * kPeak);
  for (const int64_t step : {100, 600, 1100}) EXPECT_DOUBLE_EQ(rate(Kind::constant, step), kPeak);
  EXPECT_DOUBLE_EQ(rate(Kind::inverse_sqrt, 399), kPeak / 2);
  EXPECT_DOUBLE_EQ(rate(Kind::inverse_sqrt, 1099), kPeak * std::sqrt(100.0 / 1100.0));
  EXPECT_DOUBLE_EQ(rate(Kind::inverse_sqrt, 1000000), kPeak * 0.1) << "not below the minimum";
  EXPECT_DOUBLE_EQ(rate(Kind::wsd, 100), kPeak);
  EXPECT_DOUBLE_EQ(rate(Kind::wsd, 880), kPeak) << "the last fifth begins";
  EXPECT_DOUBLE_EQ(rate(Kind::wsd, 935), kPeak * (0.1 + 0.9 * 0.5));  // a quarter of it: 1 - sqrt(1/4)
  EXPECT_DOUBLE_EQ(rate(Kind::wsd, 1100), kPeak * 0.1);
}

TEST(LearningRate, NeverRisesAfterTheWarmUpNorLeavesItsBounds) {
  for (const Kind kind : kKinds) {
    double before = rate(kind, kWarmup - 1);
    for (int64_t step = kWarmup; step <= kTotal + 50; ++step) {
      const double now = rate(kind, step);
      ASSERT_LE(now, before * (1 + 1e-15)) << "step " << step;
      ASSERT_GE(now, kPeak * 0.1 * (1 - 1e-15)) << "step " << step;
      before = now;
    }
  }
}

TEST(LearningRate, OddLengthsAreFinite) {
  for (const Kind kind : kKinds)
    for (const int64_t total : {0, 1, 2, 100})
      for (const int64_t warmup : {0, 1, 100, 200})
        for (const int64_t step : {0, 1, 99, 100, 200}) {
          const double now = rate(kind, step, total, warmup);
          EXPECT_TRUE(std::isfinite(now) && now > 0.0 && now <= kPeak)
              << step << " of " << total << ", warm-up " << warmup;
        }
  EXPECT_DOUBLE_EQ(rate(Kind::cosine, 0, 10, 0), kPeak) << "without warm-up the first step is at the peak";
}

}  // namespace
}  // namespace capstan
