// label: cpu, links: capstan_cuda_emulated, and on a device
// Whole trainings on the CUDA backend and device: the curve of the CPU, the same bits whatever is
// captured and however late streams run, and a comparison in lock-step that names the op.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "tests/support/counted_device.h"
#include "tests/support/device_under_test.h"
#include "tests/support/lock_step.h"
#include "tests/support/outcome.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

using ::testing::HasSubstr;

TrainingSpec spec_of(DecoderConfig model, Precision precision) {
  TrainingSpec spec = tiny_spec(model, precision);
  spec.microbatches = 2;
  return spec;
}

DecoderConfig with_dropout() {
  DecoderConfig model = tiny_gpt();
  model.dropout = 0.1;
  return model;
}

struct Named {
  const char* name;
  DecoderConfig model;
};
std::vector<Named> models() {
  return {{"gpt", tiny_gpt()}, {"llama", tiny_llama()}, {"alibi", tiny_alibi()}, {"dropout", with_dropout()}};
}

std::vector<Step> curve(const TrainingSpec& spec, bool capture, int steps, std::vector<float>* weights = nullptr) {
  Gpu gpu;
  const auto self = self_communicator();
  TinyTraining training(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get(), capture);
  const std::vector<Step> result = training.steps(steps);
  if (weights) *weights = training.values<float>("parameters");
  return result;
}

/// Of ten steps; libraries on a device add up in an order of their own.
constexpr double kLossTolerance = Emulation::kHere ? 1e-5 : 1e-4;

class CudaTraining : public ::testing::Test {
 protected:
  void SetUp() override { Emulation::reset(); }
  void TearDown() override { Emulation::reset(); }
};

TEST_F(CudaTraining, FollowsTheCurveOfTheCpu) {
  for (const Named& one : models()) {
    const TrainingSpec spec = spec_of(one.model, Precision::fp32);
    const kernels::Backend cpu = kernels::reference_backend();
    const auto self = self_communicator();
    const std::vector<Step> wanted = TinyTraining(spec, cpu, *self).steps(10);
    const std::vector<Step> got = curve(spec, true, 10);
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_NEAR(got[i].loss, wanted[i].loss, kLossTolerance * wanted[i].loss) << one.name << " step " << i;
      EXPECT_NEAR(got[i].norm, wanted[i].norm, 10.0 * kLossTolerance * wanted[i].norm) << one.name << " step " << i;
    }
    EXPECT_LT(got.back().loss, got.front().loss) << one.name << ": nothing was learnt";
  }
}

TEST_F(CudaTraining, FollowsItInHalfPrecision) {
  for (const Precision precision : {Precision::bf16, Precision::fp16}) {
    const TrainingSpec spec = spec_of(tiny_llama(), precision);
    const kernels::Backend cpu = kernels::reference_backend();
    const auto self = self_communicator();
    const std::vector<Step> wanted = TinyTraining(spec, cpu, *self).steps(6);
    const std::vector<Step> got = curve(spec, true, 6);
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(got[i].loss, wanted[i].loss, 2e-2) << static_cast<int>(precision) << " step " << i;
  }
}

/// Kernels that fuse what those of `gpu` fuse: the same ops, one by one.
kernels::Backend oracle_of(const Gpu& gpu) {
  kernels::Backend cpu = kernels::reference_backend();
  cpu.fuses = gpu.backend.fuses;
  return cpu;
}

TEST_F(CudaTraining, EpiloguesOfGradientsFollowTheCurveInHalfPrecision) {
  for (const Precision precision : {Precision::bf16, Precision::fp16}) {
    const TrainingSpec spec = spec_of(tiny_gpt(), precision);
    const kernels::Backend cpu = kernels::reference_backend();
    const auto self = self_communicator();
    const std::vector<Step> wanted = TinyTraining(spec, cpu, *self).steps(10);
    Gpu gpu;
    TinyTraining training(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
    std::map<std::string, int> ops;
    for (const Node& node : training.program().plan("train").tape.nodes) ++ops[std::string(node.op->name())];
    EXPECT_EQ(ops["linear activation"], 0);
    EXPECT_EQ(ops["linear activation gradient"], 2);
    EXPECT_EQ(ops["linear parameter gradients"], 12);
    const uint64_t before = Emulation::trained_products();
    const std::vector<Step> got = training.steps(10);
    if (Emulation::kHere) EXPECT_GT(Emulation::trained_products(), before) << "no epilogue ran";
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(got[i].loss, wanted[i].loss, 2e-2) << static_cast<int>(precision) << " step " << i;
    EXPECT_LT(got.back().loss, got.front().loss);
  }
}

TEST_F(CudaTraining, EpiloguesAgreeOpByOpInHalfPrecision) {
  const TrainingSpec spec = spec_of(tiny_gpt(), Precision::bf16);
  Gpu gpu;
  const kernels::Backend cpu = oracle_of(gpu);
  const auto self = self_communicator();
  TinyTraining oracle(spec, cpu, *self);
  TinyTraining other(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
  EXPECT_EQ(first_difference(oracle, other, 1, 3e-2), "");
}

TEST_F(CudaTraining, EpiloguesHaveTheSameBitsCapturedOrNotAndUnderEveryRecomputation) {
  TrainingSpec spec = spec_of(tiny_gpt(), Precision::bf16);
  std::vector<float> eager, captured, late;
  const std::vector<Step> first = curve(spec, false, 3, &eager);
  EXPECT_EQ(curve(spec, true, 3, &captured), first);
  Emulation::run_late();
  EXPECT_EQ(curve(spec, true, 3, &late), first);
  EXPECT_TRUE(eager == captured);
  EXPECT_TRUE(eager == late);
  for (const auto policy : {Recompute::Policy::selective, Recompute::Policy::full}) {
    std::vector<float> again;
    spec.plan.recompute.policy = policy;
    EXPECT_EQ(curve(spec, true, 3, &again), first) << static_cast<int>(policy);
    EXPECT_TRUE(eager == again) << static_cast<int>(policy);
  }
}

TEST_F(CudaTraining, HasTheSameBitsCapturedOrNotAndHoweverLateStreamsRun) {
  const TrainingSpec spec = spec_of(tiny_llama(), Precision::bf16);
  std::vector<float> eager, captured, again, late;
  const std::vector<Step> first = curve(spec, false, 5, &eager);
  EXPECT_EQ(curve(spec, true, 5, &captured), first);
  Emulation::reorder(7);  // blocks and threads in another order
  EXPECT_EQ(curve(spec, true, 5, &again), first);
  Emulation::run_late();
  EXPECT_EQ(curve(spec, true, 5, &late), first);
  EXPECT_TRUE(eager == captured);
  EXPECT_TRUE(eager == again);
  EXPECT_TRUE(eager == late);
}

/// Between two ends of steps the host waits for nothing, and then for the step before alone.
TEST_F(CudaTraining, AStepQueuedBehindAnotherWaitsForNothing) {
  for (const bool late : {false, true}) {
    TrainingSpec spec = spec_of(tiny_llama(), Precision::bf16);
    // On streams that run only when somebody waits, a third input of one place would have to.
    if (late) spec.microbatches = 1;
    Emulation::reset();
    std::vector<float> wanted_weights;
    const std::vector<Step> wanted = curve(spec, true, 10, &wanted_weights);
    if (late) Emulation::run_late();
    Gpu gpu;
    CountedDevice device(*gpu.runtime);
    const auto self = self_communicator();
    TinyTraining training(spec, gpu.backend, *self, 1, 1, 1, 1, {}, &device);
    std::vector<Step> got;
    const auto take = [&] {
      const size_t before = device.waits();
      const StepOutcome outcome = training.training().take_outcome();
      EXPECT_EQ(device.waits(), before + 1);
      EXPECT_EQ(outcome.weights, training.weight_sum());
      got.push_back({outcome.loss_sum / outcome.weights, outcome.gradient_norm});
    };
    for (int i = 0; i < 10; ++i) {
      const size_t before = device.waits();
      training.prepare(i, 1e-2);
      training.accumulate(i, true);
      training.training().end_step();
      // An input of one place that is written twice a step may still be on its way to a device.
      if (Emulation::kHere || spec.microbatches == 1)
        EXPECT_EQ(device.waits(), before) << "step " << i << (late ? ", late" : "");
      if (i > 0) take();
    }
    take();
    EXPECT_EQ(got, wanted);
    EXPECT_TRUE(training.values<float>("parameters") == wanted_weights);
  }
}

TEST_F(CudaTraining, AgreesOpByOpWithTheReference) {
  for (const Named& one : models()) {
    const TrainingSpec spec = spec_of(one.model, Precision::fp32);
    Gpu gpu;
    const kernels::Backend cpu = oracle_of(gpu);
    const auto self = self_communicator();
    TinyTraining oracle(spec, cpu, *self);
    TinyTraining other(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
    EXPECT_EQ(first_difference(oracle, other, 1, 2e-4), "") << one.name;
  }
}

TEST_F(CudaTraining, NoOpDependsOnTheOrderOfBlocksAndThreads) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const TrainingSpec spec = spec_of(tiny_llama(), precision);
    const auto self = self_communicator();
    Gpu gpu;
    TinyTraining one(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
    TinyTraining other(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
    EXPECT_EQ(first_difference(one, other, 1, 0.0, [] { Emulation::reorder(7); }), "");
  }
}

TEST_F(CudaTraining, LockStepNamesTheOpThatDiffers) {
  const TrainingSpec spec = spec_of(tiny_gpt(), Precision::fp32);
  Gpu gpu;
  const kernels::Backend cpu = oracle_of(gpu);
  const auto self = self_communicator();
  TinyTraining oracle(spec, cpu, *self);
  gpu.backend.activation_backward = [](const kernels::ActivationBackwardArgs& args) {
    kernels::ScaleArgs wrong{args.dy, args.dx, 0.5, args.count, args.dtype, args.stream};
    static const kernels::Backend table = kernels::cuda_backend(*kernels::open_cuda_device(0).release());
    table.scale(wrong);
  };
  TinyTraining other(spec, gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
  EXPECT_THAT(first_difference(oracle, other, 1, 2e-4), HasSubstr("gradient"));
}

TEST_F(CudaTraining, TooLittleMemoryIsSaidBeforeTheFirstStep) {
  if (!Emulation::kHere) GTEST_SKIP() << "SKIP: the memory of a device cannot be made small";
  Emulation::leave_memory(size_t{1} << 20);
  const TrainingSpec spec = spec_of(tiny_gpt(), Precision::fp32);
  EXPECT_THAT(support::refusal_of(ExitCode::config, [&] { curve(spec, true, 1); }), HasSubstr("microbatch"));
}

TEST_F(CudaTraining, TheHostMayNotReachIntoTheDevice) {
  Gpu gpu;
  const auto self = self_communicator();
  TinyTraining training(spec_of(tiny_gpt(), Precision::fp32), gpu.backend, *self, 1, 1, 1, 1, {}, gpu.runtime.get());
  EXPECT_THROW(training.program().at<float>("parameters"), Error);
}

}  // namespace
}  // namespace capstan::testing
