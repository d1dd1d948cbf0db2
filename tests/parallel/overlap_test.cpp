// label: ranks
// What communicates over dp beside the computation: the same bits as in its place, whether it runs at once, on a
// thread, or as late as the plan's waits allow; and gradients are on their way before the backward pass is over.
#include <gtest/gtest.h>

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

struct Case {
  Layout layout;
  bool llama = false;
  Precision precision = Precision::fp32;
  int64_t microbatches = 1;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int zero : {0, 1, 2, 3}) {
    const auto add = [&](Layout layout, bool llama, Precision precision, int64_t microbatches) {
      layout.dp = layout.zero_ranks > 0 ? 4 : 2, layout.zero = zero;
      all.push_back({layout, llama, precision, microbatches});
    };
    add({}, false, Precision::fp32, 1);
    add({}, true, Precision::bf16, 4);
    Layout tensor;
    tensor.tp = 2, tensor.sequence_parallel = true, tensor.recompute = Recompute::Policy::full;
    add(tensor, false, Precision::fp32, 2);
    for (const ScheduleKind schedule :
         {ScheduleKind::one_forward_one_backward, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
      Layout pipeline;
      pipeline.pp = 2, pipeline.schedule = schedule;
      pipeline.interleave = schedule == ScheduleKind::interleaved ? 2 : 1;
      add(pipeline, schedule == ScheduleKind::zero_bubble, Precision::fp32, 4);
    }
    Layout hybrid;
    hybrid.zero_ranks = 2;
    add(hybrid, true, Precision::fp32, 2);
    Layout context;
    context.cp = 2;
    add(context, true, Precision::fp32, 2);
  }
  return all;
}

TrainingSpec spec_of(const Case& c) {
  DecoderConfig model = c.llama ? tiny_llama() : tiny_gpt();
  model.layers = 4, model.context = 16;
  return tiny_spec(model, c.precision);
}

TEST(Overlap, SameBitsInPlaceOnAThreadAndAsLateAsMayBe) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(name_of(c.layout));
    const auto train = [&](Beside beside) {
      Layout layout = c.layout;
      layout.beside = beside;
      return train_twin(spec_of(c), layout, kernels::cpu_backend(), c.microbatches, 8);
    };
    const TwinOutcome in_place = train(Beside::no);
    for (const Beside beside : {Beside::lazy, Beside::thread}) {
      const TwinOutcome other = train(beside);
      EXPECT_EQ(other.steps, in_place.steps);
      EXPECT_TRUE(other.state == in_place.state) << (beside == Beside::lazy ? "as late as may be" : "on a thread");
    }
  }
}

/// Where in plan `train` of rank 0 the reductions over dp are posted.
struct Posts {
  int early = 0, in_place = 0;
  std::vector<std::string> late;  ///< of the update, in their place
};

Posts posts_of(const Layout& layout, const TrainingSpec& given) {
  TrainingSpec spec = given;
  spec.zero = layout.zero, spec.microbatches = 2;
  Posts posts;
  run_rank_threads(layout.ranks(), [&](Communicator& world) {
    TinyTraining training(spec, kernels::cpu_backend(), world, layout.tp, layout.pp, layout.cp, 1,
                          make_lane(layout.beside));
    if (world.rank() != 0) return;
    const Plan& plan = training.program().plan("train");
    for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
      const Node& node = plan.tape.nodes[i];
      if (!node.lane) continue;
      ++(plan.overlap.early(i) ? posts.early : posts.in_place);
      if (node.part == Part::update && !plan.overlap.early(i))
        posts.late.push_back(std::string(node.op->name()) + " " + plan.tape.at(node.inputs[0]).name);
    }
  });
  return posts;
}

TEST(Overlap, GradientsLeaveBeforeTheBackwardPassIsOver) {
  const TrainingSpec spec = spec_of({{}, true});
  Layout layout;
  layout.dp = 2;
  // Every run is reduced, and where all ranks update all also gathered.
  EXPECT_TRUE(posts_of(layout, spec).late.empty());
  EXPECT_GT(posts_of(layout, spec).early, 8);
  layout.zero = 1;
  const Posts one = posts_of(layout, spec);
  EXPECT_GT(one.early, 4);
  EXPECT_EQ(2 * one.late.size(), static_cast<size_t>(one.early))
      << "a square sum and a reduction of each run, and its working copy is gathered after its update";
  for (const std::string& late : one.late) EXPECT_TRUE(late.starts_with("all-gather ")) << late;
  layout.zero = 3;
  EXPECT_EQ(posts_of(layout, spec).early, 0) << "windows are reduced inside of the backward pass";
  EXPECT_TRUE(posts_of(layout, spec).late.empty());
}

/// The first of a unit's gradients are on their way while the layers below it still compute.
TEST(Overlap, AReleaseStandsWhereTheLastContributionIs) {
  TrainingSpec spec = spec_of({{}, true});
  run_rank_threads(2, [&](Communicator& world) {
    TinyTraining training(spec, kernels::cpu_backend(), world);
    if (world.rank() != 0) return;
    const Plan& plan = training.program().plan("train");
    size_t last_backward = 0, released = 0, before_the_end = 0;
    for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
      if (plan.tape.nodes[i].part == Part::backward) last_backward = i;
      released += plan.overlap.releases[i].size();
    }
    for (size_t i = 0; i < last_backward; ++i) before_the_end += plan.overlap.releases[i].size();
    EXPECT_GT(before_the_end, released / 2) << "of " << released;
  });
}

}  // namespace
}  // namespace capstan::testing
