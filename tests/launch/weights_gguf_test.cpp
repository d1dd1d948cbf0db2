// label: cpu
// What becomes a GGUF file and what must not, and the proof that what was written is what was read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/weights/gguf_output.h"
#include "tests/launch/weights_fixtures.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

/// What llama.cpp's graphs do not compute must not become a file that runs and is wrong.
TEST(Weights, WhatLlamaCppWouldComputeOtherwiseIsRefused) {
  const auto refused = [](const char* fixture, void (*change)(DecoderConfig&)) -> std::string {
    ConvertedModel model = open_hugging_face(kFixtures / fixture, false);
    change(model.model);
    return support::complaint_of(ExitCode::config, [&] { gguf_model(model.model, nullptr); });
  };
  const auto nothing = [](DecoderConfig&) {};
  EXPECT_EQ(refused("falcon_40b", nothing), "");
  const auto bare = [](DecoderConfig& m) { m.bias_qkv = m.bias_attention_output = m.bias_mlp = Toggle::off; };
  EXPECT_THAT(refused("falcon_serial", bare), HasSubstr("norm_placement = pre, wanted parallel or parallel_two"));
  EXPECT_THAT(refused("falcon_serial", nothing), HasSubstr("tied = true"));  // a serial NeoX, but for that
  EXPECT_THAT(refused("gpt2", [](DecoderConfig& m) { m.activation = Activation::relu; }),
              HasSubstr("activation = relu"));
  EXPECT_THAT(refused("llama", [](DecoderConfig& m) { m.activation = Activation::geglu; }), HasSubstr("geglu"));
  EXPECT_THAT(refused("gpt_neox", [](DecoderConfig& m) { m.tied = true; }), HasSubstr("tied = true, wanted false"));
  EXPECT_THAT(refused("qwen3", [](DecoderConfig& m) { m.bias_qkv = m.bias_attention_output = Toggle::on; }),
              HasSubstr("bias_attention_output = on"));
  EXPECT_THAT(refused("gptj", nothing), HasSubstr("no architecture for gptj"));
}

/// Rotation missed on one side is the classic mistake: interleaved heads are turned when the other side splits halves.
TEST(Weights, InterleavedHeadsAreTurnedForLlama) {
  ConvertedModel model = open_hugging_face(kFixtures / "llama", false);
  GgufModel described = gguf_model(model.model, nullptr);
  const TensorMap map(*described.family, model.model);
  const TensorMap::Place q = map.place_of("layers.0.attention.q.weight");
  const int64_t head = model.model.head();
  ASSERT_EQ(head, 8);
  std::vector<int64_t> theirs(static_cast<size_t>(model.model.width));
  for (const RowRun& run : q.piece->runs)
    for (int64_t i = 0; i < run.count; ++i) theirs[static_cast<size_t>(run.ours + i)] = run.theirs + i;
  EXPECT_THAT(std::vector<int64_t>(theirs.begin(), theirs.begin() + 8), ::testing::ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_EQ(theirs[8], 8);
  EXPECT_EQ(map.place_of("layers.0.attention.v.weight").piece->runs.size(), 1u);
}

TEST(Weights, TheProofFindsASpoiledNumber) {
  ConvertedModel model = open_hugging_face(kFixtures / "gpt2", false);
  class Spoiled : public ParameterSource {
   public:
    explicit Spoiled(ParameterSource& source) : source_(source) {}
    DType dtype(const std::string& parameter) const override { return source_.dtype(parameter); }
    void read(const std::string& parameter, int64_t first, int64_t count, void* dst) override {
      source_.read(parameter, first, count, dst);
      if (parameter == "layers.1.mlp.up.bias" && first == 0) static_cast<char*>(dst)[1] ^= 1;
    }

   private:
    ParameterSource& source_;
  } spoiled(*model.source);
  const WeightsProof proof =
      prove_weights(model.model, model.parameters, *model.source, spoiled, {}, [](uint64_t, uint64_t) {});
  EXPECT_FALSE(proof.good());
  EXPECT_THAT(proof.problem(), HasSubstr("layers.1.mlp.up.bias"));
}

TEST(Weights, AModelLargerThanTheMemoryIsProvedByItsFirstLayers) {
  ConvertedModel model = open_hugging_face(kFixtures / "llama", false);
  ProofOptions options;
  options.memory = 50000;
  WeightsProof proof =
      prove_weights(model.model, model.parameters, *model.source, *model.source, options, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(proof.good());
  EXPECT_EQ(proof.layers_run, 1);
  options.memory = 1000;
  proof =
      prove_weights(model.model, model.parameters, *model.source, *model.source, options, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(proof.good());
  EXPECT_EQ(proof.layers_run, 0);
}

}  // namespace
}  // namespace capstan
