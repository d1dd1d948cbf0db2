// label: cpu
// Training in fp16 on the reference kernels: the loss scale keeps small gradients, is halved when they overflow, grows
// again, goes on after a resume, and is none of the other precisions' business.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

class LossScaling : public ::testing::Test {
 protected:
  static TrainingSpec half(const LossScaleSpec& scale = {}, const DecoderConfig& model = tiny_gpt()) {
    TrainingSpec spec = tiny_spec(model, Precision::fp16);
    spec.loss_scale = scale;
    return spec;
  }
  static StepOutcome step(TinyTraining& training, int64_t index, double weights = 0.0) {
    training.training().begin_step(
        {1e-2, 1.0, weights > 0.0 ? weights : training.weight_sum(), 99 + static_cast<uint64_t>(index)});
    training.accumulate(index, true);
    return training.training().finish_step();
  }
  static bool same_state(TinyTraining& a, TinyTraining& b) {
    for (const char* name : {"parameters", "moment1", "moment2"})
      if (a.values<float>(name) != b.values<float>(name)) return false;
    return a.values<uint16_t>("working") == b.values<uint16_t>("working");
  }
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

TEST_F(LossScaling, Fp16TrainsAsFp32) {
  for (const DecoderConfig& model : {tiny_gpt(), tiny_llama()}) {
    TinyTraining wide(tiny_spec(model, Precision::fp32), backend_, *self_), narrow(half({}, model), backend_, *self_);
    const std::vector<Step> a = wide.steps(10), b = narrow.steps(10);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(b[i].loss, a[i].loss, 3e-3 * a[i].loss) << i;
      EXPECT_NEAR(b[i].norm, a[i].norm, 2e-2 * a[i].norm) << i;
    }
    EXPECT_TRUE(a != b) << "these were no halves";
  }
}

TEST_F(LossScaling, SmallGradientsVanishWithoutIt) {
  constexpr double kManyTokens = 4e7;  // of a large batch: each has a gradient below the smallest number of f16
  TinyTraining wide(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_), without(half({1, 1}), backend_, *self_),
      with(half(), backend_, *self_);
  const double norm = step(wide, 0, kManyTokens).gradient_norm;
  EXPECT_EQ(step(without, 0, kManyTokens).gradient_norm, 0.0);
  EXPECT_NEAR(step(with, 0, kManyTokens).gradient_norm, norm, 0.02 * norm);
}

TEST_F(LossScaling, OverflowSkipsHalvesAndRecovers) {
  TinyTraining training(half({0x1p32}), backend_, *self_), untouched(half(), backend_, *self_);
  double scale = 0x1p32;
  int skipped = 0;
  for (; skipped < 32; ++skipped, scale /= 2) {
    const StepOutcome outcome = step(training, 0);
    EXPECT_EQ(outcome.loss_scale, scale);
    if (!outcome.skipped) break;
    EXPECT_TRUE(outcome.overflowed && outcome.bad_ranks.empty());
    EXPECT_TRUE(std::isfinite(outcome.loss_sum));
    EXPECT_TRUE(same_state(training, untouched)) << "a skipped step changed something";
    EXPECT_EQ(outcome.next_loss_scale, scale / 2);
    EXPECT_EQ(training.training().loss_scale().scale, scale / 2);
    EXPECT_EQ(training.training().updates(), 0) << "a skipped step counts";
  }
  EXPECT_GT(skipped, 3);
  EXPECT_LT(skipped, 25);
  EXPECT_FALSE(same_state(training, untouched));
  EXPECT_EQ(training.training().loss_scale().scale, scale);
  EXPECT_EQ(training.training().loss_scale().good_steps, 1);
  EXPECT_EQ(training.training().updates(), 1);
  const double first = step(untouched, 0).gradient_norm;
  EXPECT_GT(first, 0.0);
  for (int i = 1; i < 6; ++i) {
    const StepOutcome a = step(training, i), b = step(untouched, i);
    ASSERT_FALSE(a.skipped || b.skipped);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 2e-2 * b.gradient_norm) << "whatever the scale";
  }
}

/// What an outcome says is of its own step, also when it is taken a step late.
TEST_F(LossScaling, OutcomesTakenLateAreTheSame) {
  const TrainingSpec spec = half({0x1p24, 1, 2});
  TinyTraining at_once(spec, backend_, *self_), late(spec, backend_, *self_);
  const std::vector<StepOutcome> got = late.outcomes_ahead(12);
  int overflowed = 0;
  for (int i = 0; i < 12; ++i) {
    const StepOutcome wanted = step(at_once, i), &one = got[static_cast<size_t>(i)];
    EXPECT_EQ(one.loss_sum, wanted.loss_sum) << i;
    EXPECT_EQ(one.loss_scale, wanted.loss_scale) << i;
    EXPECT_EQ(one.next_loss_scale, wanted.next_loss_scale) << i;
    EXPECT_EQ(one.weights, late.weight_sum()) << i;
    EXPECT_TRUE(one.skipped == wanted.skipped && one.overflowed == wanted.overflowed) << i;
    if (!one.skipped) EXPECT_EQ(one.gradient_norm, wanted.gradient_norm) << i;
    overflowed += one.overflowed;
  }
  EXPECT_GT(overflowed, 0);
  EXPECT_LT(overflowed, 10);
  EXPECT_EQ(late.training().updates(), 12 - overflowed);
  EXPECT_TRUE(same_state(at_once, late));
}

TEST_F(LossScaling, GrowsAfterGoodSteps) {
  TinyTraining training(half({256, 1, 3}), backend_, *self_);
  const double wanted[] = {256, 256, 256, 512, 512, 512, 1024};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(step(training, i).loss_scale, wanted[i]) << i;
}

TEST_F(LossScaling, AtTheLeastTheStepIsBad) {
  TinyTraining training(half({0x1p32, 0x1p31}), backend_, *self_);
  EXPECT_TRUE(step(training, 0).overflowed);
  for (int i = 0; i < 2; ++i) {
    const StepOutcome outcome = step(training, 0);
    EXPECT_TRUE(outcome.skipped);
    EXPECT_FALSE(outcome.overflowed);
    EXPECT_EQ(outcome.loss_scale, 0x1p31);
  }
}

TEST_F(LossScaling, ABadLossIsNotTheScalesFault) {
  TinyTraining training(half(), backend_, *self_);
  training.prepare(0, 1e-2);
  training.training().run_microbatches([&](int64_t m) {
    training.fill_microbatch(0, m);
    training.program().at<float>("input.loss_weights", m)[0] = NAN;
  });
  const StepOutcome outcome = training.training().finish_step();
  EXPECT_TRUE(outcome.skipped);
  EXPECT_FALSE(outcome.overflowed);
  EXPECT_EQ(outcome.bad_ranks, std::vector<int>{0});
}

TEST_F(LossScaling, ResumesInTheMiddleOfItsCount) {
  const LossScaleSpec scale{1024, 1, 3};
  TinyTraining whole(half(scale), backend_, *self_), before(half(scale), backend_, *self_),
      after(half(scale), backend_, *self_);
  for (int i = 0; i < 8; ++i) step(whole, i);
  for (int i = 0; i < 5; ++i) step(before, i);
  for (const char* name : {"parameters", "moment1", "moment2"}) {
    const std::vector<float> values = before.values<float>(name);
    std::copy(values.begin(), values.end(), after.program().at<float>(name));
  }
  after.training().refresh_working_copies();
  const LossScale kept = before.training().loss_scale();
  EXPECT_EQ(kept.scale, 2048);
  EXPECT_EQ(kept.good_steps, 2);
  after.training().set_loss_scale(kept);
  EXPECT_EQ(before.training().updates(), 5);
  after.training().set_updates(5);
  for (int i = 5; i < 8; ++i) EXPECT_EQ(step(after, i).loss_scale, i < 6 ? 2048 : 4096);
  EXPECT_TRUE(same_state(whole, after));
}

TEST_F(LossScaling, OtherPrecisionsHaveNone) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    TrainingSpec spec = tiny_spec(tiny_gpt(), precision);
    TinyTraining plain(spec, backend_, *self_);
    spec.loss_scale = {16, 2, 1};
    TinyTraining told(spec, backend_, *self_);
    EXPECT_TRUE(plain.steps(4) == told.steps(4));
    EXPECT_TRUE(plain.values<float>("parameters") == told.values<float>("parameters"));
    EXPECT_EQ(told.training().loss_scale().scale, 1.0);
    EXPECT_EQ(told.training().loss_scale().good_steps, 0.0);
  }
}

}  // namespace
}  // namespace capstan::testing
