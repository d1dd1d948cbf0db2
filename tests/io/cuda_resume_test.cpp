// label: cpu, links: capstan_cuda_emulated, and on a device, with: launch/program_state.cpp
// Training on the CUDA device that is saved through the checkpoint code and goes on in a new program: bit for bit as if
// nothing had happened; and what one kind of device saved goes on on the other.

#include <gtest/gtest.h>

#include <cstring>

#include <utility>

#include <cmath>
#include <filesystem>
#include <optional>

#include "launch/program_state.h"
#include "tests/support/device_under_test.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

namespace fs = std::filesystem;

enum class On { host, device };

/// What a training leaves behind.
struct Outcome {
  std::vector<Step> steps;
  std::vector<float> weights;
  std::vector<double> scale;  ///< of the loss
};

class CudaResume : public ::testing::Test {
 protected:
  void SetUp() override { Emulation::reset(); }
  void TearDown() override { Emulation::reset(); }

  /// Steps first .. last in a program (and on a device) of their own; from the checkpoint of step `first` unless that
  /// is 0; leaves one of step `last`.
  Outcome train(On where, const TrainingSpec& spec, int first, int last, const std::string& name) {
    std::optional<Gpu> gpu;
    if (where == On::device) gpu.emplace();
    const kernels::Backend host = kernels::reference_backend();
    const auto self = self_communicator();
    TinyTraining training(spec, gpu ? gpu->backend : host, *self, 1, 1, 1, 1, {}, gpu ? gpu->runtime.get() : nullptr);
    if (first > 0) {
      Checkpoint checkpoint = Checkpoint::open(directory_ / name / checkpoint_name(static_cast<uint64_t>(first)));
      load_state(training.training(), checkpoint);
      training.training().set_loss_scale(scale_);
      training.training().set_updates(updates_);
    }
    Outcome outcome;
    for (int i = first; i < last; ++i) outcome.steps.push_back(training.step(i));
    CommunicatorGroup group(*self);
    StateSlices state = state_slices(training.training());
    const Program& program = training.program();
    for (Slice& slice : state.slices)  // they lie in the device's memory
      slice.fetch = [&program, from = static_cast<const char*>(std::exchange(slice.data, nullptr))](
                        uint64_t first, uint64_t bytes, void* to) {
        program.get(from + first, bytes, [&](const void* part, size_t at, size_t count) {
          std::memcpy(static_cast<char*>(to) + at, part, count);
        });
      };
    save_checkpoint(directory_ / name, static_cast<uint64_t>(last), std::move(state.tensors), std::move(state.slices),
                    "{}", group, 4);
    scale_ = training.training().loss_scale();
    updates_ = training.training().updates();
    outcome.weights = training.values<float>("parameters");
    outcome.scale = {scale_.scale, scale_.good_steps};
    return outcome;
  }

  const support::TemporaryDirectory directory_;
  LossScale scale_;  ///< which the state of a run carries beside its tensors
  int64_t updates_ = 0;
};

TrainingSpec resumed_spec(Precision precision, double dropout = 0.0) {
  DecoderConfig model = tiny_llama();
  model.dropout = dropout;
  TrainingSpec spec = tiny_spec(model, precision);
  spec.microbatches = 2;
  return spec;
}

TEST_F(CudaResume, GoesOnBitForBit) {
  for (const auto& [precision, dropout] :
       {std::pair{Precision::fp32, 0.1}, {Precision::bf16, 0.0}, {Precision::fp16, 0.0}}) {
    const TrainingSpec spec = resumed_spec(precision, dropout);
    const std::string tag = std::to_string(static_cast<int>(precision));
    const Outcome whole = train(On::device, spec, 0, 6, "whole" + tag);
    Outcome parts = train(On::device, spec, 0, 3, "parts" + tag);
    const Outcome rest = train(On::device, spec, 3, 6, "parts" + tag);
    parts.steps.insert(parts.steps.end(), rest.steps.begin(), rest.steps.end());
    EXPECT_TRUE(parts.steps == whole.steps) << tag;
    EXPECT_TRUE(rest.weights == whole.weights) << tag;
    EXPECT_TRUE(rest.scale == whole.scale) << tag;
  }
}

TEST_F(CudaResume, WhatTheHostSavedGoesOnOnTheDeviceAndBack) {
  const TrainingSpec spec = resumed_spec(Precision::fp32);
  const Outcome whole = train(On::host, spec, 0, 9, "whole");
  Outcome parts = train(On::host, spec, 0, 3, "parts");
  for (const auto& [where, first] : {std::pair{On::device, 3}, {On::host, 6}}) {
    const Outcome rest = train(where, spec, first, first + 3, "parts");
    parts.steps.insert(parts.steps.end(), rest.steps.begin(), rest.steps.end());
  }
  for (size_t i = 0; i < whole.steps.size(); ++i) {
    EXPECT_NEAR(parts.steps[i].loss, whole.steps[i].loss, 1e-4 * whole.steps[i].loss) << "step " << i;
    EXPECT_NEAR(parts.steps[i].norm, whole.steps[i].norm, 1e-3 * whole.steps[i].norm) << "step " << i;
  }
}

}  // namespace
}  // namespace capstan::testing
