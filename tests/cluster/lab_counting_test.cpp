// label: plan
// What a token costs: the plan against closed forms written out by hand, for shapes of GPT-2 and LLaMA.
#include <gtest/gtest.h>

#include "cluster/lab/counting.h"
#include "core/config/parameter_count.h"
#include "core/config/presets.h"
#include "core/training_program.h"

namespace capstan {
namespace {

/// GPT-2's own numbers: 12 L d^2 weights in the blocks, the tied head of v rows.
double gpt2_products(double layers, double width, double vocabulary) {
  return 6 * (12 * layers * width * width + vocabulary * width);
}

TEST(LabCounting, Gpt2SmallInFigures) {
  DecoderConfig model = preset_model("gpt2-124m");
  model.vocabulary = 50257;
  const ParameterParts parts = parameter_parts(model);
  EXPECT_EQ(parts.embedding, 50257 * 768);
  EXPECT_EQ(parts.positions, 1024 * 768);
  EXPECT_EQ(parts.head, 0);
  EXPECT_EQ(parts.blocks, 12 * (12 * 768 * 768 + 13 * 768) + 2 * 768);
  EXPECT_EQ(parts.total(), 124439808);
  const PlanCost plan = plan_cost(model);
  const double products = gpt2_products(12, 768, 50272);  // 50257 rows padded to a multiple of 16
  EXPECT_DOUBLE_EQ(plan.whole, products + 12.0 * 12 * 1024 * 768);
  EXPECT_DOUBLE_EQ(plan.half, products + 6.0 * 12 * 1025 * 768);
  EXPECT_DOUBLE_EQ(plan.executed, products + 7.0 * 12 * 1025 * 768);
  EXPECT_DOUBLE_EQ(deepseek_cost(model), 72.0 * 12 * 768 * 768 + 12.0 * 12 * 768 * 1024);
}

TEST(LabCounting, LlamaSevenBillionInFigures) {
  DecoderConfig model = preset_model("llama2-7b");
  model.vocabulary = 32000;
  const ParameterParts parts = parameter_parts(model);
  EXPECT_EQ(parts.total(), 6738415616);
  EXPECT_EQ(parts.head, 32000 * 4096);
  EXPECT_EQ(parts.embedding, 32000 * 4096);
  const double weights = 32.0 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008) + 32000.0 * 4096;
  const PlanCost plan = plan_cost(model);
  EXPECT_DOUBLE_EQ(plan.whole, 6 * weights + 12.0 * 32 * 4096 * static_cast<double>(model.context));
  EXPECT_DOUBLE_EQ(plan.half, 6 * weights + 6.0 * 32 * 4096 * static_cast<double>(model.context + 1));
}

TEST(LabCounting, PlanAndClosedFormAreEqualForEveryPreset) {
  for (const std::string& name : preset_names()) {
    DecoderConfig model = preset_model(name);
    if (model.vocabulary == 0) model.vocabulary = 257;
    if (parameter_count(model) > 3e9) continue;  // plans of 96 blocks take seconds, and say the same
    const PlanCost plan = plan_cost(model);
    const ClosedCost closed = closed_cost(model);
    EXPECT_NEAR(plan.half / closed.half, 1.0, 1e-12) << name;
    EXPECT_NEAR(plan.whole / closed.whole, 1.0, 1e-12) << name;
    EXPECT_GT(plan.executed, plan.half) << name;
  }
}

TEST(LabCounting, GroupedHeadsWindowsAndOddHeadSizes) {
  DecoderConfig model;
  model.layers = 3, model.width = 48, model.heads = 6, model.kv_heads = 2, model.head_size = 20, model.context = 40;
  model.vocabulary = 300, model.activation = Activation::swiglu, model.hidden = 100, model.tied = false;
  const double weights = 3.0 * (2 * 48 * 120 + 2 * 48 * 40 + 3 * 48 * 100) + 304.0 * 48;
  EXPECT_DOUBLE_EQ(plan_cost(model).whole, 6 * weights + 12.0 * 3 * 120 * 40);
  EXPECT_DOUBLE_EQ(closed_cost(model).whole, plan_cost(model).whole);
  model.window = 8;
  EXPECT_DOUBLE_EQ(closed_cost(model).half, plan_cost(model).half);
  EXPECT_DOUBLE_EQ(plan_cost(model).half, 6 * weights + 12.0 * 3 * 120 * 8);
}

TEST(LabCounting, HoffmannsAppendixFForAChinchillaShape) {
  // 73 M of table A9: d 640, f 2560, 64 x 10 heads, 10 blocks, sequences of 2048, 32000 tokens. Per sequence forward:
  const double s = 2048, v = 32000, d = 640, kh = 640, h = 10, f = 2560, layers = 10;
  const double block =
      2 * 3 * s * d * kh + 2 * s * s * kh + 3 * h * s * s + 2 * s * s * kh + 2 * s * kh * d + 2 * s * (2 * d * f);
  const double forward = 2 * s * v * d + layers * block + 2 * s * d * v;
  DecoderConfig model;
  model.layers = 10, model.width = 640, model.heads = 10, model.head_size = 64, model.hidden = 2560;
  model.context = 2048, model.vocabulary = 32000;
  EXPECT_DOUBLE_EQ(hoffmann_cost(model), 3 * forward / s);
}

TEST(LabCounting, RecomputationIsNoPartOfTheCost) {
  DecoderConfig model = preset_model("tiny");
  model.vocabulary = 257;
  const kernels::Backend backend = kernels::reference_backend();
  TrainingSpec spec;
  spec.model = model;
  spec.microbatch = 2;
  spec.plan.recompute = {Recompute::Policy::full};
  const TrainingProgram training(Mesh(), Device{&backend, {}}, spec);
  const PlanCost again = plan_cost(training.program().plan("train"), 2.0 * static_cast<double>(model.context));
  const PlanCost once = plan_cost(model);
  EXPECT_NEAR(again.half / once.half, 1.0, 1e-12);
  EXPECT_NEAR(again.whole / once.whole, 1.0, 1e-12);
  EXPECT_GT(again.executed, 1.1 * once.executed);
}

}  // namespace
}  // namespace capstan
