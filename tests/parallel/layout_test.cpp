// label: ranks
// Every layout is its unsharded twin: tensor and sequence parallel, with data parallel, recomputation, dropout,
// grouped heads fewer than ranks; in fp64 on the reference kernels to rounding, in fp32 and bf16 as closely as they go.

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

DecoderConfig tiny_window() {
  DecoderConfig config = tiny_gpt();
  config.head_size = 5, config.positions = Positions::alibi, config.window = 7;
  config.activation = Activation::geglu, config.hidden = 20, config.tied = false;
  return config;
}

/// llama has two key/value heads: with tp 4 each is read by two ranks.
enum Model { kGpt, kLlama, kWindow };
DecoderConfig config_of(Model model) {
  return model == kGpt ? tiny_gpt() : model == kLlama ? tiny_llama() : tiny_window();
}

void expect_layout_is_its_twin(Model model, const Layout& layout, double dropout = 0.0, int64_t microbatches = 1) {
  expect_is_its_twin(model, config_of(model), layout, microbatches, dropout);
}

/// Data ranks and the stage of ZeRO.
enum Data { kOne, kTwo, kTwoZero1, kTwoZero2, kTwoZero3 };

using Case = std::tuple<Model, int, bool, Data, Policy>;

Layout layout_of(const Case& c) {
  const auto [model, tp, sequence_parallel, data, recompute] = c;
  return {tp, data == kOne ? 1 : 2, sequence_parallel, recompute, data == kOne ? 0 : static_cast<int>(data) - 1};
}

class Layouts : public ::testing::TestWithParam<Case> {};

TEST_P(Layouts, AreTheirTwins) {
  const Layout layout = layout_of(GetParam());
  if (layout.sequence_parallel && layout.tp == 1) return;  // there is nothing to divide
  expect_layout_is_its_twin(std::get<0>(GetParam()), layout);
}

std::string name_of_case(const ::testing::TestParamInfo<Case>& test) {
  return std::string(std::get<0>(test.param) == kGpt ? "gpt_" : "llama_") + name_of(layout_of(test.param));
}

INSTANTIATE_TEST_SUITE_P(Product, Layouts,
                         ::testing::Combine(::testing::Values(kGpt, kLlama), ::testing::Values(1, 2, 4),
                                            ::testing::Bool(),
                                            ::testing::Values(kOne, kTwo, kTwoZero1, kTwoZero2, kTwoZero3),
                                            ::testing::Values(Policy::none, Policy::selective, Policy::full)),
                         name_of_case);

TEST(LayoutFeatures, AlibiWindowAndUntiedHead) {
  for (const bool sequence_parallel : {false, true})
    expect_layout_is_its_twin(kWindow, {4, 1, sequence_parallel, Policy::none});
}

TEST(LayoutFeatures, DropoutFollowsTheLogicalElement) {
  for (const Model model : {kGpt, kLlama})
    for (const Layout& layout : {Layout{2}, Layout{2, 2, true}, Layout{4, 1, true, Policy::selective}})
      expect_layout_is_its_twin(model, layout, 0.2);
}

TEST(LayoutFeatures, MicrobatchesAddUp) {
  for (const int zero : {0, 1, 2, 3}) expect_layout_is_its_twin(kLlama, {2, 2, true, Policy::none, zero}, 0.0, 2);
  for (const int zero : {2, 3}) expect_layout_is_its_twin(kGpt, {1, 4, false, Policy::full, zero}, 0.0, 1);
}

TEST(LayoutFeatures, SingleAndHalfPrecisionOnTheFastKernels) {
  const kernels::Backend backend = kernels::cpu_backend();
  for (const auto& [precision, limit] : {std::pair{Precision::fp32, 1e-5}, {Precision::bf16, 2e-2}})
    for (const Model model : {kGpt, kLlama}) {
      const TwinOutcome one = train_twin(tiny_spec(config_of(model), precision), {}, backend);
      for (const Layout& layout : {Layout{2}, Layout{4, 2, true}}) {
        const TwinOutcome many = train_twin(tiny_spec(config_of(model), precision), layout, backend);
        for (size_t i = 0; i < one.steps.size(); ++i)
          EXPECT_NEAR(many.steps[i].loss, one.steps[i].loss, limit * one.steps[i].loss) << name_of(layout);
      }
    }
}

TEST(LayoutFeatures, OrderedSumsStayBitwiseAcrossDataRanks) {
  TrainingSpec spec = tiny_spec(tiny_llama(), Precision::fp32);
  spec.plan.reduction = Reduction::ordered;
  const TwinOutcome one = train_twin(spec, {2, 1, true}, kernels::reference_backend(), 4);
  const TwinOutcome two = train_twin(spec, {2, 2, true}, kernels::reference_backend(), 2);
  EXPECT_EQ(one.steps, two.steps);
  EXPECT_TRUE(one.state == two.state) << "weights or moments differ";
}

/// The same sums, formed of the same pieces: whether masters and moments are whole or divided shows in no bit.
TEST(LayoutFeatures, ZeroOneIsZeroNoughtBitForBit) {
  for (const Precision precision : {Precision::fp32, Precision::bf16})
    for (const Model model : {kGpt, kLlama})
      for (const Reduction reduction : {Reduction::fast, Reduction::ordered})
        for (Layout layout : {Layout{1, 4}, Layout{2, 2, true}}) {
          SCOPED_TRACE(name_of(layout));
          TrainingSpec spec = tiny_spec(config_of(model), precision);
          spec.plan.reduction = reduction;
          const TwinOutcome whole = train_twin(spec, layout, kernels::cpu_backend());
          layout.zero = 1;
          const TwinOutcome divided = train_twin(spec, layout, kernels::cpu_backend());
          EXPECT_EQ(divided.steps, whole.steps);
          EXPECT_TRUE(divided.state == whole.state) << "weights or moments differ";
        }
}

/// Without accumulation all stages form the same sums of the same terms; with it stages 2 and 3 do, which reduce in
/// every microbatch.
TEST(LayoutFeatures, StagesOfZeroShowInNoBit) {
  for (const Precision precision : {Precision::fp32, Precision::bf16})
    for (const Model model : {kGpt, kLlama})
      for (const int64_t microbatches : {1, 2})
        for (Layout layout : {Layout{1, 2}, Layout{2, 2, true, Policy::selective}}) {
          SCOPED_TRACE(name_of(layout));
          const auto train = [&](int zero) {
            layout.zero = zero;
            return train_twin(tiny_spec(config_of(model), precision), layout, kernels::cpu_backend(), microbatches);
          };
          const TwinOutcome two = train(2), three = train(3), none = train(0);
          EXPECT_TRUE(two.steps == three.steps && two.state == three.state) << "stages 2 and 3";
          if (microbatches == 1) EXPECT_TRUE(two.steps == none.steps && two.state == none.state) << "stages 0 and 2";
        }
}

/// A request to stop reaches all ranks, whichever got it; a sample's weight counts once.
TEST(LayoutControl, IsSummedOnceOverSamplesAndOverAllRanks) {
  const kernels::Backend backend = kernels::reference_backend();
  for (int asked = 0; asked < 4; ++asked)
    run_rank_threads(4, [&](Communicator& world) {
      testing::TinyTraining training(tiny_spec(tiny_gpt()), backend, world, 2);
      training.training().begin_step(
          {.weights = 10.0 + training.mesh().coordinate(Axis::dp), .stop = world.rank() == asked});
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kWeightSum], 21.0);
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kStopRequests], 1.0);
    });
}

/// A gradient that is not finite on one rank only is skipped by all.
TEST(LayoutControl, AllRanksSkipTogether) {
  const kernels::Backend backend = kernels::reference_backend();
  run_rank_threads(4, [&](Communicator& world) {
    testing::TinyTraining training(tiny_spec(tiny_llama()), backend, world, 2);
    training.prepare(0, 1e-2);
    training.accumulate(0);
    const std::vector<double> before = training.values<double>("parameters");
    if (world.rank() == 3) *training.program().at<double>("gradient.layers.0.attention.q.weight") = INFINITY;
    EXPECT_TRUE(training.training().finish_step().skipped) << "rank " << world.rank();
    EXPECT_EQ(training.values<double>("parameters"), before);
  });
}

}  // namespace
}  // namespace capstan::testing
