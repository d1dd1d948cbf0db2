// label: ranks
// A pipeline is its unsharded twin: every schedule, with tensor, sequence and data parallelism, ZeRO, recomputation and
// accumulation; and where design and numerics say so, bit for bit.

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

using enum ScheduleKind;

constexpr int64_t kBatch = 8;

/// Tied and with learned positions; untied with grouped heads; both with four layers.
enum Model { kGpt, kLlama };
DecoderConfig config_of(Model model) {
  DecoderConfig config = model == kGpt ? tiny_gpt() : tiny_llama();
  config.layers = 4;
  return config;
}

void expect_pipeline_is_its_twin(Model model, const Layout& layout, int64_t microbatches, double dropout = 0.0) {
  expect_is_its_twin(model, config_of(model), layout, microbatches, dropout, kBatch);
}

Layout pipeline(int pp, ScheduleKind schedule, int interleave = 1) {
  Layout layout;
  layout.pp = pp, layout.schedule = schedule, layout.interleave = interleave;
  return layout;
}

class Pipelines : public ::testing::TestWithParam<std::tuple<Model, Layout, int>> {};

TEST_P(Pipelines, AreTheirTwins) {
  const auto& [model, layout, microbatches] = GetParam();
  expect_pipeline_is_its_twin(model, layout, microbatches);
}

std::vector<Layout> schedules() {
  std::vector<Layout> all;
  for (const int pp : {2, 4})
    for (const ScheduleKind kind : {gpipe, one_forward_one_backward, zero_bubble}) all.push_back(pipeline(pp, kind));
  all.push_back(pipeline(2, interleaved, 2));
  return all;
}

INSTANTIATE_TEST_SUITE_P(Schedules, Pipelines,
                         ::testing::Combine(::testing::Values(kGpt, kLlama), ::testing::ValuesIn(schedules()),
                                            ::testing::Values(2, 4, 8)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == kGpt ? "gpt_" : "llama_") +
                                  name_of(std::get<1>(test.param)) + fmt::format("_m{}", std::get<2>(test.param));
                         });

TEST(Pipeline, GoesWithEveryOtherAxis) {
  for (const Model model : {kGpt, kLlama})
    for (const ScheduleKind kind : {one_forward_one_backward, zero_bubble, gpipe}) {
      Layout layout = pipeline(2, kind);
      layout.tp = 2;
      expect_pipeline_is_its_twin(model, layout, 4);
      layout.sequence_parallel = true, layout.recompute = Policy::selective;
      expect_pipeline_is_its_twin(model, layout, 4);
      for (const int zero : {1, 2, 3}) {
        layout.dp = 2, layout.zero = zero, layout.recompute = Policy::full;
        expect_pipeline_is_its_twin(model, layout, 2);
        layout.recompute = Policy::selective;
        expect_pipeline_is_its_twin(model, layout, 4);
      }
    }
  Layout layout = pipeline(2, interleaved, 2);
  layout.dp = 2, layout.tp = 2, layout.recompute = Policy::full;
  for (const int zero : {0, 3}) {
    layout.zero = zero;
    expect_pipeline_is_its_twin(kGpt, layout, 4);
  }
}

TEST(Pipeline, DropoutFollowsTheLogicalElement) {
  for (const Layout& layout :
       {pipeline(4, one_forward_one_backward), pipeline(2, zero_bubble), pipeline(2, interleaved, 2)})
    expect_pipeline_is_its_twin(kLlama, layout, 4, 0.2);
}

/// Losses, norms, weights and moments: which stage does what when shows in no bit.
TEST(Pipeline, SchedulesAndRecomputationShowInNoBit) {
  for (const Precision precision : {Precision::fp32, Precision::bf16})
    for (const Model model : {kGpt, kLlama}) {
      const auto train = [&](Layout layout) {
        return train_twin(tiny_spec(config_of(model), precision), layout, kernels::cpu_backend(), 4, kBatch);
      };
      const TwinOutcome one = train(pipeline(2, gpipe));
      for (const Layout& layout :
           {pipeline(2, one_forward_one_backward), pipeline(2, zero_bubble), pipeline(2, interleaved, 2)})
        for (const Policy policy : {Policy::none, Policy::selective, Policy::full}) {
          Layout other = layout;
          other.recompute = policy;
          SCOPED_TRACE(name_of(other));
          const TwinOutcome two = train(other);
          EXPECT_TRUE(two.steps == one.steps) << "losses or norms differ";
          EXPECT_TRUE(two.state == one.state) << "weights or moments differ";
        }
    }
}

/// A model whose head is its own has the same bits on any number of stages.
TEST(Pipeline, StagesShowInNoBitOfAnUntiedModel) {
  for (const Precision precision : {Precision::fp32, Precision::bf16})
    for (const int dp : {1, 2})
      for (const int zero : {0, 1}) {
        if (zero > 0 && dp == 1) continue;
        const auto train = [&](Layout layout) {
          layout.dp = dp, layout.zero = zero;
          return train_twin(tiny_spec(config_of(kLlama), precision), layout, kernels::cpu_backend(), 4, kBatch);
        };
        const TwinOutcome one = train({});
        for (const Layout& layout :
             {pipeline(2, one_forward_one_backward), pipeline(4, zero_bubble), pipeline(2, interleaved, 2)}) {
          SCOPED_TRACE(name_of(layout));
          const TwinOutcome many = train(layout);
          EXPECT_TRUE(many.steps == one.steps) << "losses or norms differ";
          EXPECT_TRUE(many.state == one.state) << "weights or moments differ";
        }
      }
}

TEST(Pipeline, OrderedSumsStayBitwiseAcrossDataRanks) {
  TrainingSpec spec = tiny_spec(config_of(kLlama), Precision::fp32);
  spec.plan.reduction = Reduction::ordered;
  const TwinOutcome one = train_twin(spec, {}, kernels::reference_backend(), 8, kBatch);
  for (const Layout& layout : {pipeline(2, one_forward_one_backward), pipeline(2, interleaved, 2), pipeline(4, gpipe),
                               pipeline(2, zero_bubble)})
    for (const int dp : {1, 2}) {
      Layout many = layout;
      many.dp = dp;
      SCOPED_TRACE(name_of(many));
      const TwinOutcome two = train_twin(spec, many, kernels::reference_backend(), 8 / dp, kBatch);
      EXPECT_TRUE(two.steps == one.steps) << "losses or norms differ";
      EXPECT_TRUE(two.state == one.state) << "weights or moments differ";
    }
}

}  // namespace
}  // namespace capstan::testing
