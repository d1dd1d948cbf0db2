// label: ranks
// Every family of decoders with all its switches, sharded, is its unsharded twin.

#include "tests/support/families.h"
#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

class FamilyLayouts : public ::testing::TestWithParam<std::string> {
 protected:
  void expect_twin(const Layout& layout, int64_t microbatches = 1, double dropout = 0.0) {
    SCOPED_TRACE(name_of(layout));
    DecoderConfig model = small_family(GetParam(), 16);
    model.layers = std::max<int64_t>(model.layers, layout.pp * layout.interleave);
    model.dropout = dropout;
    const TrainingSpec spec = tiny_spec(model);
    const TwinOutcome one = train_twin(spec, {}, kernels::reference_backend());
    expect_twins(one, train_twin(spec, layout, kernels::reference_backend(), microbatches), 1e-12, 1e-9);
  }
};

TEST_P(FamilyLayouts, TensorParallel) { expect_twin({.tp = 2}); }
TEST_P(FamilyLayouts, SequenceParallelWithDropout) { expect_twin({.tp = 2, .sequence_parallel = true}, 1, 0.1); }
TEST_P(FamilyLayouts, PipelineOfChunks) {
  expect_twin({.recompute = Recompute::Policy::full, .pp = 2, .schedule = ScheduleKind::interleaved, .interleave = 2},
              2);
}
TEST_P(FamilyLayouts, EverythingDividedOverDataRanks) {
  expect_twin({.dp = 2, .recompute = Recompute::Policy::selective, .zero = 3});
}
TEST_P(FamilyLayouts, ContextParallel) { expect_twin({.cp = 2}); }
TEST_P(FamilyLayouts, TensorContextAndPipeline) {
  expect_twin({.tp = 2, .sequence_parallel = true, .pp = 2, .schedule = ScheduleKind::zero_bubble, .cp = 2}, 2);
}

/// A head whose table is the embedding's and whose bias is its own needs two units at once, whatever windows they use.
TEST(TiedHeadWithBias, DividedOverDataRanksIsItsTwin) {
  DecoderConfig model = tiny_gpt();
  model.tied = model.head_bias = true;
  for (const int64_t layers : {2, 3}) {
    model.layers = layers;
    const TrainingSpec spec = tiny_spec(model);
    const TwinOutcome one = train_twin(spec, {}, kernels::reference_backend());
    for (const Layout& layout : {Layout{.dp = 2, .zero = 2}, Layout{.dp = 2, .zero = 3},
                                 Layout{.dp = 2, .zero = 2, .pp = 2}, Layout{.dp = 2, .zero = 3, .pp = 2}}) {
      SCOPED_TRACE(name_of(layout) + ", layers " + std::to_string(layers));
      expect_twins(one, train_twin(spec, layout, kernels::reference_backend(), layout.pp), 1e-12, 1e-9);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, FamilyLayouts, ::testing::ValuesIn(family_names()),
                         [](const auto& test) { return test_name_of_family(test.param); });

}  // namespace
}  // namespace capstan::testing
