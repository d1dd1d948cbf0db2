// label: ranks
// Hybrid sharding: state divided inside groups of data ranks, the groups replicas of each other. Each is its unsharded
// twin; bytes on the wire and bytes of state are those of the formulas; the stages of ZeRO show in no bit.

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

enum Model { kGpt, kLlama };
constexpr int64_t kBatch = 8;

DecoderConfig config_of(Model model) {
  DecoderConfig config = model == kGpt ? tiny_gpt() : tiny_llama();
  config.layers = 4;
  return config;
}

Layout hybrid(int zero, int zero_ranks, int dp = 4) {
  Layout layout;
  layout.dp = dp, layout.zero = zero, layout.zero_ranks = zero_ranks;
  return layout;
}

void expect_twin(Model model, const Layout& layout, int64_t microbatches = 1, double dropout = 0.0) {
  expect_is_its_twin(model, config_of(model), layout, microbatches, dropout, kBatch);
}

TEST(Hybrid, IsItsTwinUnderEveryStage) {
  for (const Model model : {kGpt, kLlama})
    for (const int zero : {0, 1, 2, 3})
      for (const int zero_ranks : {1, 2, 4}) expect_twin(model, hybrid(zero, zero_ranks), zero % 2 == 0 ? 1 : 2);
}

TEST(Hybrid, GoesWithEveryOtherAxis) {
  for (const int zero : {1, 2, 3}) {
    Layout layout = hybrid(zero, 2);
    layout.tp = 2;
    expect_twin(kGpt, layout, 2);
    layout.sequence_parallel = true, layout.recompute = Policy::full;
    expect_twin(kLlama, layout, 1);
    layout = hybrid(zero, 2);
    layout.pp = 2, layout.schedule = zero == 2 ? ScheduleKind::zero_bubble : ScheduleKind::one_forward_one_backward;
    expect_twin(kGpt, layout, 2);
    layout = hybrid(zero, 2);
    layout.cp = 2, layout.recompute = Policy::selective;
    expect_twin(kLlama, layout, 2);
  }
  Layout unequal = hybrid(3, 2, 8);
  expect_twin(kLlama, unequal);
}

TEST(Hybrid, DropoutFollowsTheLogicalSample) {
  for (const int zero : {0, 3}) expect_twin(kLlama, hybrid(zero, 2), 2, 0.2);
}

TEST(Hybrid, StagesOfZeroShowInNoBit) {
  for (const Precision precision : {Precision::fp32, Precision::bf16})
    for (const int64_t microbatches : {1, 2})
      for (const int tp : {1, 2}) {
        if (tp > 1 && (precision == Precision::bf16 || microbatches > 1)) continue;
        const auto train = [&](int zero) {
          Layout layout = hybrid(zero, 2);
          layout.tp = tp, layout.sequence_parallel = tp > 1;
          return train_twin(tiny_spec(config_of(kLlama), precision), layout, kernels::cpu_backend(), microbatches,
                            kBatch);
        };
        const TwinOutcome none = train(0), one = train(1), two = train(2), three = train(3);
        EXPECT_TRUE(none.steps == one.steps && none.state == one.state) << "stages 0 and 1";
        EXPECT_TRUE(two.steps == three.steps && two.state == three.state) << "stages 2 and 3";
        if (microbatches == 1) EXPECT_TRUE(two.steps == none.steps && two.state == none.state) << "stages 0 and 2";
      }
}

/// Ranks of a group, then groups: one tree, whatever the groups.
TEST(Hybrid, OrderedSumsStayBitwiseAcrossGroupsAndDataRanks) {
  TrainingSpec spec = tiny_spec(config_of(kLlama), Precision::fp32);
  spec.plan.reduction = Reduction::ordered;
  const auto train = [&](const Layout& layout) {
    return train_twin(spec, layout, kernels::reference_backend(), 8 / layout.dp, kBatch);
  };
  const TwinOutcome one = train({});
  for (const int zero : {0, 1})
    for (const int zero_ranks : {0, 1, 2}) {
      const TwinOutcome many = train(hybrid(zero, zero_ranks));
      EXPECT_TRUE(many.steps == one.steps && many.state == one.state) << zero << " in groups of " << zero_ranks;
    }
}

TEST(Hybrid, PipelineSchedulesShowInNoBit) {
  const auto train = [&](ScheduleKind kind) {
    Layout layout = hybrid(1, 2);
    layout.pp = 2, layout.schedule = kind;
    return train_twin(tiny_spec(config_of(kGpt), Precision::fp32), layout, kernels::cpu_backend(), 2, kBatch);
  };
  const TwinOutcome one = train(ScheduleKind::gpipe);
  for (const ScheduleKind kind : {ScheduleKind::one_forward_one_backward, ScheduleKind::zero_bubble}) {
    const TwinOutcome two = train(kind);
    EXPECT_TRUE(two.steps == one.steps && two.state == one.state);
  }
}

/// With n ranks a group and r groups: inside a group what ZeRO sends over n ranks; between groups one all-reduce of a
/// piece of m/n elements a step, however many microbatches, and the scalars of the report.
TEST(BytesOfHybrid, AreThoseOfTheFormula) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const auto& [n, r] : {std::pair<size_t, size_t>{2, 2}, {4, 2}, {2, 4}})
    for (const int zero : {0, 1, 2, 3})
      for (const int64_t microbatches : {1, 3})
        run_rank_threads(static_cast<int>(n * r), [&, n = n, r = r](Communicator& world) {
          TrainingSpec spec = tiny_spec(tiny_llama(), Precision::bf16);
          spec.zero = zero, spec.microbatches = microbatches, spec.microbatch = 1;
          TinyTraining training(spec, backend, world, 1, 1, 1, static_cast<int>(r));
          ASSERT_EQ(training.mesh().size(Axis::dp), static_cast<int>(n));
          training.prepare(0, 1e-2);
          const auto sent = [&](Axis axis) { return training.group(axis).count().bytes; };
          const size_t inside = sent(Axis::dp), between = sent(Axis::rep);
          training.accumulate(0);
          EXPECT_EQ(sent(Axis::rep), between) << "replicas speak once a step";
          training.training().finish_step();
          const FlatLayout& layout = training.training().layout();
          size_t all = 0, table = 0;
          for (const FlatRun& run : layout.runs) {
            all += static_cast<size_t>(run.count);
            if (run.unit == 0) table += static_cast<size_t>(run.count);
          }
          const size_t report = 2 * (2 + n * r) * 8, squares = 2 * layout.runs.size() * 8;
          EXPECT_EQ(sent(Axis::rep) - between, (2 * all / n * 4 + report) * (r - 1) / r);
          const size_t m = static_cast<size_t>(microbatches);
          const size_t gradients = (zero < 2 ? 1 : m) * all * 4;
          const size_t gathered = zero == 0 ? all * 4 : zero < 3 ? all * 2 : m * (2 * all - table) * 2;
          EXPECT_EQ(sent(Axis::dp) - inside, (gradients + gathered + report + squares) * (n - 1) / n);
        });
}

/// As ZeRO over the n ranks of a group, however many groups there are.
TEST(BytesOfHybrid, StateIsDividedByTheGroupAlone) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const auto& [n, r] : {std::pair{2, 2}, {2, 8}, {8, 4}})
    for (const int zero : {1, 2, 3}) {
      TrainingSpec spec = tiny_spec(config_of(kLlama), Precision::bf16);
      spec.zero = zero;
      const TrainingProgram training(Mesh({n, 1, 1, 1, 1, r}, n * r - 1), Device{&backend, {}}, spec);
      const auto bytes = [&](Purpose purpose) {
        size_t sum = 0;
        for (const PersistentTensor& tensor : training.program().persistent().all())
          if (tensor.parent < 0 && tensor.purpose == purpose) sum += tensor.bytes;
        return static_cast<double>(sum) / static_cast<double>(training.layout().elements);
      };
      const double state =
          bytes(Purpose::working) + bytes(Purpose::gradient) + bytes(Purpose::parameter) + bytes(Purpose::moment);
      EXPECT_EQ(state, zero == 1 ? 6.0 + 12.0 / n : zero == 2 ? 2.0 + 16.0 / n : 16.0 / n) << n << " x " << r;
    }
}

/// Samples count once over all data ranks, a request to stop reaches all, and a loss that is not finite is laid on the
/// data rank that has it.
TEST(HybridControl, IsSummedOverGroupsToo) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const int asked : {0, 3, 6})
    run_rank_threads(8, [&](Communicator& world) {
      TrainingSpec spec = tiny_spec(tiny_gpt());
      spec.zero = 2;
      TinyTraining training(spec, backend, world, 2, 1, 1, 2);
      EXPECT_EQ(training.mesh().data_ranks(), 4);
      EXPECT_EQ(training.mesh().data_rank(), world.rank() / 2);
      training.training().begin_step({.weights = 10.0 + training.mesh().data_rank(), .stop = world.rank() == asked});
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kWeightSum], 46.0);
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kStopRequests], 1.0);
      training.prepare(0, 1e-2);
      training.accumulate(0);
      if (world.rank() / 2 == asked / 2) training.program().at<double>("step.report")[kLossSum] = NAN;
      const StepOutcome outcome = training.training().finish_step();
      EXPECT_EQ(outcome.bad_ranks, std::vector<int>{asked / 2});
    });
}

TEST(HybridControl, AllGroupsSkipTogether) {
  const kernels::Backend backend = kernels::reference_backend();
  run_rank_threads(4, [&](Communicator& world) {
    TrainingSpec spec = tiny_spec(tiny_llama());
    spec.zero = 1;
    TinyTraining training(spec, backend, world, 1, 1, 1, 2);
    training.prepare(0, 1e-2);
    training.accumulate(0);
    const std::vector<double> before = training.values<double>("parameters");
    if (world.rank() == 3) *training.program().at<double>("gradient.layers.0.attention.q.weight") = INFINITY;
    EXPECT_TRUE(training.training().finish_step().skipped) << "rank " << world.rank();
    EXPECT_EQ(training.values<double>("parameters") == before, true);
  });
}

}  // namespace
}  // namespace capstan::testing
