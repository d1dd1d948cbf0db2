// label: cpu, links: capstan_cuda_emulated, and on a device
// The number by which a CUDA device tells how far it has come: written by its kernel into the host's memory, seen
// without waiting, in order, and whole when the device is done.
#include <gtest/gtest.h>

#include "parallel/flight_recorder.h"
#include "tests/support/device_under_test.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

/// Forward and backward passes of microbatches in the order in which one stage runs them.
int64_t place_in_step(const FlightPosition& at) {
  return 2 * at.microbatch + (std::string(at.label.part.data()) == name_of(Part::backward) ? 1 : 0);
}

class CudaPosition : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { Emulation::reset(); }
  void TearDown() override { Emulation::reset(); }
};
INSTANTIATE_TEST_SUITE_P(Captured, CudaPosition, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "InGraphs" : "OpByOp"; });

TEST_P(CudaPosition, FollowsTheDeviceThroughWhatWasQueued) {
  constexpr int64_t kStep = 3;
  Gpu gpu;
  const auto self = self_communicator();
  TrainingSpec spec = tiny_spec(tiny_gpt(), Precision::fp32);
  spec.microbatches = 3;
  TinyTraining training(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get(), GetParam());
  FlightRecorder recorder(0, 1, 60);
  recorder.observe(training.program());
  Emulation::run_late();
  for (int64_t step = 0; step < kStep; ++step) {
    recorder.phase(Phase::step, step);
    training.step(step);
    EXPECT_EQ(recorder.position().place, FlightPlace::host) << "the outcome was waited for";
  }
  recorder.phase(Phase::step, kStep);
  training.prepare(kStep, 1e-2);
  training.accumulate(kStep, true);
  const kernels::Event all = gpu.runtime->make_event();
  gpu.runtime->record(all, gpu.runtime->main_stream());
  int64_t last = -1;
  int places = 0;
  for (uint64_t moved = 0; !gpu.runtime->is_past(all);) {
    const FlightPosition at = recorder.position();
    const uint64_t moves = recorder.moves();
    EXPECT_GE(moves, moved);
    moved = moves;
    if (at.place == FlightPlace::host) continue;
    EXPECT_EQ(at.step, kStep);
    EXPECT_GE(place_in_step(at), last) << at.describe();
    places += place_in_step(at) > last;
    last = place_in_step(at);
  }
  if (Emulation::kHere) {
    EXPECT_GE(places, 4) << "the emulated device does one thing each time it is asked";
    EXPECT_EQ(last, 2 * 2 + 1);
  }
  EXPECT_EQ(recorder.position().place, FlightPlace::host);
  training.training().finish_step();
}

TEST_F(CudaPosition, NumbersArriveInOrder) {
  Gpu gpu;
  Emulation::run_late();
  DeviceProgress progress(*gpu.runtime);
  constexpr uint64_t kMarks = 1000;
  for (uint64_t i = 1; i <= kMarks; ++i) EXPECT_EQ(progress.mark(), i);
  if (Emulation::kHere) EXPECT_EQ(progress.passed(), 0u);
  const kernels::Event all = gpu.runtime->make_event();
  gpu.runtime->record(all, gpu.runtime->main_stream());
  for (uint64_t before = 0; !gpu.runtime->is_past(all);) {
    const uint64_t now = progress.passed();
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_EQ(progress.passed(), kMarks);
  progress.close();
  EXPECT_EQ(progress.passed(), kMarks);
}

}  // namespace
}  // namespace capstan::testing
