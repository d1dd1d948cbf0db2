// label: ranks
// Pairs of nodes that become one product with an epilogue (core/passes/fuse.h): which do, under every recomputation and
// layout, and that a training is the same with them and without. The reference kernels round alike either way, so equal
// means equal bits.

#include <map>

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

kernels::Backend plain_backend() {
  kernels::Backend backend = kernels::reference_backend();
  backend.fuses = [](const kernels::MatmulShape&) { return false; };
  return backend;
}

constexpr const char* kActivation = "linear activation";
constexpr const char* kActivationGradient = "linear activation gradient";
constexpr const char* kParameterGradients = "linear parameter gradients";

class FusedPlan {
 public:
  FusedPlan(const DecoderConfig& model, Policy policy, const kernels::Backend& backend, int layers = -1)
      : backend_(backend) {
    TrainingSpec spec = tiny_spec(model);
    spec.plan.recompute = {policy, layers};
    training_ = std::make_unique<TinyTraining>(spec, backend_, *self_);
  }
  const Plan& plan(const char* name = "train") { return training_->program().plan(name); }
  int count(const std::string& op, const char* name = "train") {
    const auto& nodes = plan(name).tape.nodes;
    return static_cast<int>(
        std::count_if(nodes.begin(), nodes.end(), [&](const Node& node) { return node.op->name() == op; }));
  }

 private:
  kernels::Backend backend_;
  std::unique_ptr<Communicator> self_ = self_communicator();
  std::unique_ptr<TinyTraining> training_;
};

TEST(Fuse, PairsOfAPlainMlpBecomeOne) {
  FusedPlan gpt(tiny_gpt(), Policy::none, kernels::reference_backend());
  EXPECT_EQ(gpt.count(kActivation), 2);
  EXPECT_EQ(gpt.count(kActivationGradient), 2);
  EXPECT_EQ(gpt.count(kParameterGradients), 2 * 6);
  for (const char* left : {"activation", "activation gradient", "bias gradient"}) EXPECT_EQ(gpt.count(left), 0) << left;
  EXPECT_EQ(gpt.count(kActivation, "evaluate"), 0) << "it is fused as it is recorded, and keeps nothing";
}

TEST(Fuse, AGatedMlpKeepsItsActivations) {
  FusedPlan llama(tiny_llama(), Policy::none, kernels::reference_backend());
  FusedPlan apart(tiny_llama(), Policy::none, plain_backend());
  EXPECT_EQ(llama.plan().tape.to_text(), apart.plan().tape.to_text());
  FusedPlan biased(tiny_alibi(), Policy::none, kernels::reference_backend());
  EXPECT_EQ(biased.count(kActivation) + biased.count(kActivationGradient), 0);
  EXPECT_EQ(biased.count(kParameterGradients), 2 * 7);
}

TEST(Fuse, WhatIsMadeAgainIsFusedAsTheFirstTime) {
  FusedPlan full(tiny_gpt(), Policy::full, kernels::reference_backend());
  EXPECT_EQ(full.count(kActivation), 2 * 2);
  EXPECT_EQ(full.count(kActivationGradient), 2);
  FusedPlan first(tiny_gpt(), Policy::full, kernels::reference_backend(), 1);
  EXPECT_EQ(first.count(kActivation), 2 + 1);
  FusedPlan selective(tiny_gpt(), Policy::selective, kernels::reference_backend());
  EXPECT_EQ(selective.count(kActivation), 0) << "the activation alone is made again";
  EXPECT_EQ(selective.count("activation"), 2 * 2);
  EXPECT_EQ(selective.count(kActivationGradient), 2);
}

TEST(Fuse, OnlyWhatTheBackendGainsFrom) {
  kernels::Backend backend = kernels::reference_backend();
  backend.fuses = [](const kernels::MatmulShape& s) { return s.bias_gradient && s.n == 64; };  // of the way down
  FusedPlan plan(tiny_gpt(), Policy::none, backend);
  EXPECT_EQ(plan.count(kParameterGradients), 2);
  EXPECT_EQ(plan.count("bias gradient"), 2 * 5);
  EXPECT_EQ(plan.count(kActivation) + plan.count(kActivationGradient), 0);
}

TEST(Fuse, WorkIsCountedAsBeforeAndMemoryIsNoMore) {
  for (const Policy policy : {Policy::none, Policy::selective, Policy::full}) {
    FusedPlan fused(tiny_gpt(), policy, kernels::reference_backend()), apart(tiny_gpt(), policy, plain_backend());
    for (const Part part : {Part::forward, Part::backward})
      for (const bool again : {false, true})
        EXPECT_EQ(fused.plan().flops(part, again), apart.plan().flops(part, again)) << name_of(part) << again;
    EXPECT_LT(fused.plan().tape.nodes.size(), apart.plan().tape.nodes.size());
    EXPECT_LE(fused.plan().memory.bytes, apart.plan().memory.bytes) << static_cast<int>(policy);
  }
}

Layout layout_of(int tp, int dp, int zero, Policy policy) {
  Layout layout;
  layout.tp = tp, layout.dp = dp, layout.zero = zero, layout.recompute = policy;
  return layout;
}

std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const Policy policy : {Policy::none, Policy::selective, Policy::full}) {
    all.push_back(layout_of(1, 1, 0, policy));
    all.push_back(layout_of(2, 1, 0, policy));
    all.back().sequence_parallel = policy == Policy::full;
    all.push_back(layout_of(1, 1, 0, policy));
    all.back().pp = 2, all.back().schedule = ScheduleKind::zero_bubble;
    all.push_back(layout_of(1, 2, 1, policy));
  }
  all.push_back(layout_of(2, 1, 0, Policy::none));
  all.back().sequence_parallel = true;
  all.push_back(layout_of(1, 2, 2, Policy::none));
  all.back().beside = testing::Beside::lazy;
  all.push_back(layout_of(1, 2, 3, Policy::full));
  return all;
}

class FusedTrainings : public ::testing::TestWithParam<Layout> {};

TEST_P(FusedTrainings, AreThoseApart) {
  const Layout& layout = GetParam();
  for (const Precision precision : {Precision::fp64, Precision::bf16}) {
    const TrainingSpec spec = tiny_spec(tiny_gpt(), precision);
    const TwinOutcome apart = train_twin(spec, layout, plain_backend(), 2);
    const TwinOutcome fused = train_twin(spec, layout, kernels::reference_backend(), 2);
    expect_twins(apart, fused, 1e-12, 1e-9);
    EXPECT_TRUE(fused.steps == apart.steps && fused.state == apart.state) << "to rounding only";
  }
}

INSTANTIATE_TEST_SUITE_P(Fuse, FusedTrainings, ::testing::ValuesIn(layouts()),
                         [](const auto& one) { return name_of(one.param); });

/// The layer before an activation is cut by columns, the one after it by rows.
TEST(Fuse, ShardsOfALayerAsTheWhole) {
  const TrainingSpec spec = tiny_spec(tiny_gpt());
  const kernels::Backend backend = kernels::reference_backend();
  run_rank_threads(2, [&](Communicator& world) {
    TinyTraining training(spec, backend, world, 2);
    std::map<std::string, int> found;
    for (const Node& node : training.program().plan("train").tape.nodes) ++found[std::string(node.op->name())];
    EXPECT_EQ(found[kActivation], 2);
    EXPECT_EQ(found[kActivationGradient], 2);
    EXPECT_EQ(found[kParameterGradients], 2 * 6);
  });
}

TEST(Fuse, WithoutBiasesOnlyActivationsAre) {
  DecoderConfig model = tiny_gpt();
  model.bias = false;
  FusedPlan plan(model, Policy::none, kernels::reference_backend());
  EXPECT_EQ(plan.count(kActivation), 2);
  EXPECT_EQ(plan.count(kActivationGradient), 2);
  EXPECT_EQ(plan.count(kParameterGradients), 0);
  for (const Layout& layout : {Layout{}, layout_of(2, 1, 0, Policy::full)}) {
    const TwinOutcome apart = train_twin(tiny_spec(model), layout, plain_backend(), 2);
    const TwinOutcome fused = train_twin(tiny_spec(model), layout, kernels::reference_backend(), 2);
    EXPECT_TRUE(fused.steps == apart.steps && fused.state == apart.state) << name_of(layout);
  }
}

/// Of a pair whose gradients a schedule plays apart, both go to that part.
TEST(Fuse, GradientsOfParametersStayInThePartThatPlaysThem) {
  TrainingSpec spec = tiny_spec(tiny_gpt());
  spec.schedule = ScheduleKind::zero_bubble, spec.microbatches = 4;
  const kernels::Backend backend = kernels::reference_backend();
  run_rank_threads(2, [&](Communicator& world) {
    TinyTraining training(spec, backend, world, 1, 2);
    std::map<std::pair<std::string, Part>, int> found;
    for (const Node& node : training.program().plan("train").tape.nodes)
      ++found[{std::string(node.op->name()), node.part}];
    EXPECT_EQ((found[{kParameterGradients, Part::weights}]), 6);
    EXPECT_EQ((found[{kParameterGradients, Part::backward}]), 0);
    EXPECT_EQ((found[{kActivationGradient, Part::backward}]), 1);
    EXPECT_EQ((found[{kActivation, Part::forward}]), 1);
  });
}

}  // namespace
}  // namespace capstan::testing
