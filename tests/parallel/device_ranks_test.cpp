// label: ranks, links: capstan_nccl_emulated
// Training as on GPUs: a program in a device's memory, kernels and NCCL's calls queued on streams, paths and the lane
// on streams of their own, graphs between. The device is a set of threads, so that a wait that is missing is a race;
// the result is that of the same layout in the host's memory, bit for bit (groups of two sum alike in every order).
#include <gtest/gtest.h>

#include "parallel/stream_lane.h"
#include "tests/parallel/layout_twin.h"
#include "tests/support/nccl_ranks.h"
#include "tests/support/queued_backend.h"

namespace capstan::testing {
namespace {

struct Case {
  Layout layout;
  bool llama = false;
  Precision precision = Precision::fp32;
  int64_t microbatches = 2;
  Reduction reduction = Reduction::fast;
};

TrainingSpec spec_of(const Case& c) {
  DecoderConfig model = c.llama ? tiny_llama() : tiny_gpt();
  model.layers = 4, model.context = 16;
  TrainingSpec spec = tiny_spec(model, c.precision);
  spec.plan.reduction = c.reduction;
  return spec;
}

/// What the groups of a rank have counted, by axis.
using Counts = std::vector<std::pair<size_t, size_t>>;

Counts counts_of(TinyTraining& training) {
  Counts counts;
  for (int axis = 0; axis < kAxisCount; ++axis) {
    const CommunicationCount count = training.group(static_cast<Axis>(axis)).count();
    counts.emplace_back(count.calls, count.bytes);
  }
  return counts;
}

/// As train_twin, with a device of threads and NCCL under every rank. counts: of each rank, after the steps.
TwinOutcome train_on_devices(const Case& c, bool capture, bool overlap = true, std::vector<Counts>* counts = nullptr) {
  nccl_over_threads(60);
  const Layout& layout = c.layout;
  constexpr int64_t kBatch = 8;
  TrainingSpec spec = spec_of(c);
  spec.microbatches = c.microbatches;
  spec.microbatch = kBatch / (layout.dp * c.microbatches);
  spec.schedule = layout.schedule, spec.interleave = layout.interleave;
  spec.sequence_parallel = layout.sequence_parallel;
  spec.zero = layout.zero;
  spec.plan.recompute.policy = layout.recompute;
  static const kernels::Backend backend = queued_backend();
  StateCollector collector;
  std::vector<std::vector<Step>> steps(static_cast<size_t>(layout.ranks()));
  NcclRanksOptions options;
  options.device.jitter = std::chrono::microseconds(300);
  if (counts != nullptr) counts->resize(static_cast<size_t>(layout.ranks()));
  run_nccl_ranks(
      layout.ranks(),
      [&](const NcclRank& rank) {
        const kernels::Stream beside = rank.device.open_stream();
        const auto world = rank.group(), lane_world = rank.session.group(rank.control, beside);
        const auto make_lane = [&](std::shared_ptr<const AxisGroups> groups) {
          return std::make_unique<StreamLane>(rank.device, beside, rank.device.main_stream(), std::move(groups));
        };
        TinyTraining training(spec, backend, *world, layout.tp, layout.pp, layout.cp, layout.replicas(),
                              overlap ? TinyTraining::MakeLane(make_lane) : TinyTraining::MakeLane(), &rank.device,
                              capture, lane_world.get());
        std::vector<Step>& mine = steps[static_cast<size_t>(rank.control.rank())];
        for (int i = 0; i < kTwinSteps; ++i) mine.push_back(training.step(i, kTwinRate));
        training.program().finish();
        if (counts != nullptr) (*counts)[static_cast<size_t>(rank.control.rank())] = counts_of(training);
        collector.take(training);  // memory of this device is the host's
        rank.control.barrier();
      },
      options);
  for (const auto& of_rank : steps) EXPECT_EQ(of_rank, steps[0]);
  return {steps[0], collector.state()};
}

void expect_same(const Case& c) {
  SCOPED_TRACE(name_of(c.layout));
  const TwinOutcome host = train_twin(spec_of(c), c.layout, kernels::cpu_backend(), c.microbatches, 8);
  for (const bool capture : {false, true}) {
    const TwinOutcome device = train_on_devices(c, capture);
    EXPECT_EQ(device.steps, host.steps) << (capture ? "in graphs" : "op by op");
    EXPECT_TRUE(device.state == host.state) << (capture ? "in graphs" : "op by op");
  }
}

Layout layout_of(int dp, int tp, int pp) {
  Layout layout;
  layout.dp = dp, layout.tp = tp, layout.pp = pp;
  return layout;
}

TEST(DeviceRanks, DataParallelAtEveryStageOfZero) {
  for (const int zero : {0, 1, 2, 3}) {
    Case c{layout_of(2, 1, 1), zero % 2 == 0};
    c.layout.zero = zero;
    expect_same(c);
  }
}

TEST(DeviceRanks, TensorAndSequenceParallel) {
  for (const bool sequence : {false, true}) {
    Case c{layout_of(1, 2, 1), sequence, sequence ? Precision::bf16 : Precision::fp32};
    c.layout.sequence_parallel = sequence;
    expect_same(c);
  }
}

TEST(DeviceRanks, Pipelines) {
  for (const ScheduleKind schedule :
       {ScheduleKind::one_forward_one_backward, ScheduleKind::interleaved, ScheduleKind::zero_bubble}) {
    Case c{layout_of(1, 1, 2)};
    c.microbatches = 4;
    c.layout.schedule = schedule, c.layout.interleave = schedule == ScheduleKind::interleaved ? 2 : 1;
    expect_same(c);
  }
}

TEST(DeviceRanks, AllAtOnce) {
  Case c{layout_of(2, 2, 2), true};
  c.layout.sequence_parallel = true, c.layout.zero = 1, c.layout.recompute = Recompute::Policy::selective;
  expect_same(c);
}

TEST(DeviceRanks, ContextParallel) {
  Case c{layout_of(1, 1, 1), true};
  c.layout.cp = 2;
  expect_same(c);
}

/// With and without a lane: what stands in graphs differs.
TEST(DeviceRanks, CountWhatGraphsSendAgain) {
  Case everything{layout_of(2, 2, 2), true};
  everything.layout.sequence_parallel = true, everything.layout.zero = 1;
  Case context{layout_of(1, 1, 1)};
  context.layout.cp = 2;
  for (const Case& c : {everything, context})
    for (const bool overlap : {false, true}) {
      SCOPED_TRACE(name_of(c.layout) + (overlap ? ", with a lane" : ""));
      std::vector<Counts> plain, captured;
      train_on_devices(c, false, overlap, &plain);
      train_on_devices(c, true, overlap, &captured);
      for (size_t rank = 0; rank < plain.size(); ++rank)
        for (size_t axis = 0; axis < plain[rank].size(); ++axis) {
          SCOPED_TRACE(fmt::format("rank {}, axis {}", rank, axis));
          EXPECT_EQ(captured[rank][axis].first, plain[rank][axis].first) << "calls";
          EXPECT_EQ(captured[rank][axis].second, plain[rank][axis].second) << "bytes";
        }
      const Axis busy = c.layout.tp > 1 ? Axis::tp : Axis::cp;
      EXPECT_GT(plain[0][static_cast<size_t>(busy)].second, 0u);
    }
}

/// Four ranks sum in a ring, but in the tree where that is asked for.
TEST(DeviceRanks, OrderedSumsOfFour) {
  Case c{layout_of(4, 1, 1)};
  c.reduction = Reduction::ordered;
  expect_same(c);
}

}  // namespace
}  // namespace capstan::testing
