// label: ranks
// fp16 under layouts: all ranks decide alike on the loss scale, whatever is divided over them; overflow of one data
// rank's gradient alone skips the step everywhere; ordered sums give the same bits on any number of data ranks.

#include <algorithm>

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

constexpr int kSteps = 6;

struct Course {
  std::vector<double> losses, norms, scales;
  std::vector<bool> overflowed;
};

TrainingSpec half_spec(const LossScaleSpec& scale) {
  DecoderConfig model = tiny_llama();
  model.vocabulary = 32;
  TrainingSpec spec = tiny_spec(model, Precision::fp16);
  spec.loss_scale = scale;
  return spec;
}

/// `large`: data rank whose loss weights are so large in step 1 that its gradients overflow; -1: none.
Course course_of(TrainingSpec spec, const Layout& layout, int64_t microbatches, int large = -1,
                 std::map<std::string, std::vector<double>>* state = nullptr) {
  const kernels::Backend backend = kernels::reference_backend();
  spec.microbatches = microbatches, spec.microbatch = 4 / (layout.dp * microbatches);
  spec.schedule = layout.schedule, spec.interleave = layout.interleave;
  spec.sequence_parallel = layout.sequence_parallel, spec.zero = layout.zero;
  std::vector<Course> courses(static_cast<size_t>(layout.ranks()));
  StateCollector collector;
  run_rank_threads(layout.ranks(), [&](Communicator& world) {
    TinyTraining training(spec, backend, world, layout.tp, layout.pp, layout.cp, layout.replicas());
    Course& mine = courses[static_cast<size_t>(world.rank())];
    for (int i = 0; i < kSteps; ++i) {
      training.prepare(i, 1e-2);
      training.training().run_microbatches([&](int64_t m) {
        training.fill_microbatch(i, m);
        if (i == 1 && training.mesh().data_rank() == large)
          training.program().at<float>("input.loss_weights", m)[0] = 1e9f;
      });
      const StepOutcome outcome = training.training().finish_step();
      mine.losses.push_back(outcome.loss_sum), mine.norms.push_back(outcome.gradient_norm);
      mine.scales.push_back(outcome.loss_scale), mine.overflowed.push_back(outcome.overflowed);
    }
    training.program().settle();
    if (state) collector.take(training);
  });
  for (const Course& course : courses) {
    EXPECT_TRUE(course.scales == courses[0].scales) << "ranks disagree on the scale";
    EXPECT_TRUE(course.overflowed == courses[0].overflowed) << "ranks disagree on the skipped steps";
    for (size_t i = 0; i < course.norms.size(); ++i)
      if (!courses[0].overflowed[i]) EXPECT_EQ(course.norms[i], courses[0].norms[i]);
  }
  if (state) *state = collector.state();
  return courses[0];
}

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all{{.dp = 2},
                                       {.dp = 2, .zero = 1},
                                       {.dp = 2, .zero = 2},
                                       {.dp = 2, .zero = 3},
                                       {.dp = 4, .zero = 3, .zero_ranks = 2},
                                       {.tp = 2},
                                       {.tp = 2, .dp = 2, .sequence_parallel = true, .zero = 1},
                                       {.pp = 2},
                                       {.dp = 2, .zero = 2, .pp = 2},
                                       {.cp = 2}};
  return all;
}

TEST(LossScaleLayouts, OverflowSkipsTheSameStepsEverywhere) {
  const LossScaleSpec scale{0x1p20, 1, 2};
  const Course one = course_of(half_spec(scale), {}, 1);
  ASSERT_TRUE(one.overflowed[0]) << "nothing to see";
  ASSERT_TRUE(std::count(one.overflowed.begin(), one.overflowed.end(), false) > 1) << "it never recovers";
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    const Course many = course_of(half_spec(scale), layout, 1);
    EXPECT_TRUE(many.overflowed[0]);
    EXPECT_GT(std::count(many.overflowed.begin(), many.overflowed.end(), false), 1);
    double next = 0x1p20;
    for (int i = 0, good = 0; i < kSteps; ++i) {
      const bool overflowed = many.overflowed[static_cast<size_t>(i)];
      EXPECT_EQ(many.scales[static_cast<size_t>(i)], next) << i;
      good = overflowed ? 0 : good + 1;
      next *= overflowed ? 0.5 : good == 2 ? 2.0 : 1.0;
      if (good == 2) good = 0;
    }
  }
}

TEST(LossScaleLayouts, TrainAsOneRank) {
  const Course one = course_of(half_spec({}), {}, 1);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(name_of(layout));
    const Course many = course_of(half_spec({}), layout, 1);
    for (size_t i = 0; i < one.losses.size(); ++i) {
      EXPECT_NEAR(many.losses[i], one.losses[i], 3e-3 * one.losses[i]);
      EXPECT_NEAR(many.norms[i], one.norms[i], 2e-2 * one.norms[i]);
      EXPECT_EQ(many.scales[i], one.scales[i]);
    }
  }
}

TEST(LossScaleLayouts, OverflowOfOneRankSkipsAll) {
  for (const Layout& layout : {Layout{.dp = 2}, Layout{.dp = 2, .zero = 3}, Layout{.dp = 2, .pp = 2}})
    for (const int large : {0, 1}) {
      SCOPED_TRACE(name_of(layout));
      const Course course = course_of(half_spec({}), layout, 1, large);
      EXPECT_TRUE(course.overflowed == (std::vector<bool>{false, true, false, false, false, false}));
      EXPECT_EQ(course.scales[1], 65536.0);
      EXPECT_EQ(course.scales[2], 32768.0);
    }
}

TEST(LossScaleLayouts, OrderedSumsHaveTheSameBits) {
  TrainingSpec spec = half_spec({0x1p20, 1, 2});
  spec.plan.reduction = Reduction::ordered;
  std::map<std::string, std::vector<double>> wanted, got;
  const Course one = course_of(spec, {}, 4, -1, &wanted);
  EXPECT_TRUE(one.overflowed[0]);
  for (const Layout& layout : {Layout{.dp = 2}, Layout{.dp = 4}, Layout{.dp = 2, .zero = 1}}) {
    SCOPED_TRACE(name_of(layout));
    const Course many = course_of(spec, layout, 4 / layout.dp, -1, &got);
    EXPECT_TRUE(many.scales == one.scales);
    EXPECT_TRUE(many.losses == one.losses);
    EXPECT_TRUE(got == wanted) << "other bits";
  }
}

/// The squares from which the gradient noise scale is made are without the loss scale too.
TEST(LossScaleLayouts, OwnGradientsAreSquaredWithoutIt) {
  const kernels::Backend backend = kernels::reference_backend();
  std::vector<double> squares;
  for (const Precision precision : {Precision::fp32, Precision::fp16})
    run_rank_threads(2, [&](Communicator& world) {
      TinyTraining training(tiny_spec(tiny_gpt(), precision), backend, world);
      training.prepare(0, 1e-2);
      training.accumulate(0, true);
      const StepOutcome outcome = training.training().finish_step();
      if (world.rank() == 0) squares.push_back(outcome.own_square);
    });
  EXPECT_GT(squares[0], 0.0);
  EXPECT_NEAR(squares[1], squares[0], 0.02 * squares[0]);
}

}  // namespace
}  // namespace capstan::testing
