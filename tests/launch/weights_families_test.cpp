// label: cpu
// Every family's small random model, saved by transformers with its logits (tests/io/make_weight_fixtures.py): read,
// run, written again. Logits agree to 1e-4, KL below 1e-9; each tensor comes back bit for bit; the config says the
// same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "io/weights/gguf_output.h"
#include "io/weights/model_settings.h"
#include "tests/launch/weights_fixtures.h"

namespace capstan {
namespace {

class Families : public ::testing::TestWithParam<std::string> {};

TEST_P(Families, GiveTheLogitsOfTransformers) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  const Distance found = distance_of(GetParam(), model);
  EXPECT_LT(found.largest, 1e-4);
  EXPECT_LT(found.divergence, 1e-9);
}

TEST_P(Families, ComeBackBitForBit) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  TemporaryDirectory out;
  write_safetensors(out.path(), *model.map, *model.source, std::nullopt, 1 << 14, [](const OutputProgress&) {});
  const auto written = open_safetensors_directory(out.path());
  EXPECT_EQ(written->tensors().size(), model.files->tensors().size());
  for (const auto& [name, tensor] : model.files->tensors()) {
    const StoredTensor* found = written->find(name);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(found->shape, tensor.shape) << name;
    ASSERT_EQ(found->bytes, tensor.bytes) << name;
    std::vector<char> before(tensor.bytes), after(tensor.bytes);
    model.files->read(name, before.data(), 0, tensor.bytes);
    written->read(name, after.data(), 0, tensor.bytes);
    EXPECT_TRUE(before == after) << name;
  }
}

TEST_P(Families, AreFoundForTheModelAndSayItBack) {
  const ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  for (const std::string& type : {std::string(), std::string(model.family->model_type)}) {
    const ModelFamily& found = family_for(model.model, type);
    const FamilyModel back = read_model_config(write_model_config(found, model.model, {}), "written");
    EXPECT_THAT(model_differences(model.model, back.model), ::testing::IsEmpty());
  }
}

/// A parameter read through the map of one family's layout and written in another's is the same parameter.
TEST_P(Families, GoThroughGgufWhereLlamaCppHasThem) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  GgufModel described;
  try {
    described = gguf_model(model.model, nullptr);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    return;
  }
  TemporaryDirectory out;
  const TensorMap map(*described.family, model.model);
  write_gguf(out / "model.gguf", described, map, *model.source, std::nullopt, [](const OutputProgress&) {});
  const auto files = open_gguf(out / "model.gguf");
  MappedSource written(*files, map);
  const WeightsProof proof =
      prove_weights(model.model, model.parameters, *model.source, written, {}, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(proof.good()) << proof.problem();
  EXPECT_EQ(proof.largest_difference, 0.0);
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(fixture_names()),
                         [](const auto& information) { return information.param; });

TEST(Weights, ThereIsAFixtureOfEachFamily) {
  std::set<std::string> types;
  for (const std::string& name : fixture_names())
    types.insert(open_hugging_face(kFixtures / name, false).family->model_type);
  for (const std::string& type : known_model_types()) EXPECT_TRUE(types.contains(type)) << type;
}

// ---- what others have missed: each is in a fixture, and without it the fixture's logits are others

struct Trap {
  const char *name, *fixture;
  void (*fallen_into)(DecoderConfig&);
};

const Trap kTraps[] = {
    {"Gpt1NormsComeAfter", "gpt1", [](DecoderConfig& m) { m.norm_placement = NormPlacement::deep; }},
    {"Gpt1sGeluIsTheTanhForm", "gpt1", [](DecoderConfig& m) { m.activation = Activation::gelu; }},
    {"Gpt2sGeluIsTheTanhForm", "gpt2", [](DecoderConfig& m) { m.activation = Activation::gelu; }},
    {"GptNeoDoesNotScaleScores", "gpt_neo", [](DecoderConfig& m) { m.attention_scale = 0.0; }},
    {"GptNeoHasLocalLayers", "gpt_neo", [](DecoderConfig& m) { m.window = 0; }},
    {"GptNeosFirstLayerIsGlobal", "gpt_neo", [](DecoderConfig& m) { m.global_first = 1; }},
    {"GptJRotatesPairs", "gptj", [](DecoderConfig& m) { m.rotary_interleaved = false; }},
    {"GptJRotatesAPart", "gptj", [](DecoderConfig& m) { m.rotary_fraction = 1.0; }},
    {"NeoxRotatesAPart", "gpt_neox", [](DecoderConfig& m) { m.rotary_fraction = 1.0; }},
    {"NeoxRotatesHalves", "gpt_neox", [](DecoderConfig& m) { m.rotary_interleaved = true; }},
    {"NeoxBranchesAreParallel", "gpt_neox", [](DecoderConfig& m) { m.norm_placement = NormPlacement::pre; }},
    {"NeoxMayBeSerial", "gpt_neox_serial", [](DecoderConfig& m) { m.norm_placement = NormPlacement::parallel_two; }},
    {"NeoxsGeluIsTheErfForm", "gpt_neox", [](DecoderConfig& m) { m.activation = Activation::gelu_tanh; }},
    {"BloomsGeluIsTheTanhForm", "bloom", [](DecoderConfig& m) { m.activation = Activation::gelu; }},
    {"BloomHasAlibi", "bloom", [](DecoderConfig& m) { m.positions = Positions::none; }},
    {"XglmScalesEmbeddings", "xglm", [](DecoderConfig& m) { m.embedding_scale = 1.0; }},
    {"XglmsPositionsBeginAtTwo", "xglm", [](DecoderConfig& m) { m.position_offset = 0; }},
    {"Opt350mNormsComeAfter", "opt_350m", [](DecoderConfig& m) { m.norm_placement = NormPlacement::deep; }},
    {"LlamaRotatesHalves", "llama", [](DecoderConfig& m) { m.rotary_interleaved = true; }},
    {"Llama3ScalesRotation", "llama3", [](DecoderConfig& m) { m.rotary_scaling = RotaryScaling::none; }},
    {"YarnsMscaleSharpens", "llama_yarn", [](DecoderConfig& m) { m.rotary_attention = 0.0; }},
    {"YarnsContextIsTheWholeOne", "llama_yarn", [](DecoderConfig& m) { m.rotary_original_context = 16; }},
    {"Qwen3sWindowsAlternate", "qwen3_windows", [](DecoderConfig& m) { m.global_every = 0; }},
    {"MistralHasAWindow", "mistral", [](DecoderConfig& m) { m.window = 0; }},
    {"FalconRotatesHalves", "falcon_40b", [](DecoderConfig& m) { m.rotary_interleaved = true; }},
    {"FalconMayBeSerial", "falcon_serial", [](DecoderConfig& m) { m.norm_placement = NormPlacement::parallel_two; }},
};

class Traps : public ::testing::TestWithParam<Trap> {};

TEST_P(Traps, WouldShow) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam().fixture, false);
  GetParam().fallen_into(model.model);
  EXPECT_GT(distance_of(GetParam().fixture, model).largest, 2e-4);
}

INSTANTIATE_TEST_SUITE_P(All, Traps, ::testing::ValuesIn(kTraps),
                         [](const auto& information) { return std::string(information.param.name); });

/// With another packing of the fused tensor, q, k and v are rows of each other.
TEST(Weights, EachPackingOfFusedTensorsIsItsOwn) {
  for (const std::string name : {"gpt2", "gpt_neox", "bloom", "falcon_7b", "falcon_40b", "falcon_serial"}) {
    ConvertedModel model = open_hugging_face(kFixtures / name, false);
    ModelFamily wrong = *model.family;
    for (NameRow& row : wrong.names)
      if (row.packing != RowPacking::whole)
        row.packing = row.packing == RowPacking::stacked ? RowPacking::grouped : RowPacking::stacked;
    const TensorMap map(wrong, model.model);
    model.source = std::make_unique<MappedSource>(*model.files, map);
    const double largest = distance_of(name, model).largest;
    if (name == "falcon_7b")  // one group: both packings are the same rows
      EXPECT_LT(largest, 1e-4) << name;
    else
      EXPECT_GT(largest, 1e-2) << name;
  }
}

/// Slopes for a number of heads that is no power of two: those of the next lower power, then every second of the next
/// higher. Fixture bloom has six heads; without the rule of the odd ones its logits would be others.
TEST(Weights, BloomsSixHeadsNeedTheOddSlopes) {
  ConvertedModel model = open_hugging_face(kFixtures / "bloom", false);
  EXPECT_EQ(model.model.heads, 6);
  EXPECT_LT(distance_of("bloom", model).largest, 1e-4);
}

}  // namespace
}  // namespace capstan
