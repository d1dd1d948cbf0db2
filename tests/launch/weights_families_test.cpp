// label: cpu
// Every family's small random model, saved by transformers with its logits (tests/io/make_weight_fixtures.py): read,
// run, written again. Logits agree to 1e-4, KL below 1e-9; each tensor comes back bit for bit; the config says the
// same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "core/error.h"
#include "io/file_system.h"
#include "io/safetensors.h"
#include "io/weights/gguf_output.h"
#include "launch/converted_model.h"
#include "launch/weights_proof.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kFixtures =
    fs::path(getenv("CAPSTAN_SOURCE") ? getenv("CAPSTAN_SOURCE") : ".") / "tests/io/golden/weights";

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "capstan-weights-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFixtures))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

struct Wanted {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};

Wanted wanted_of(const std::string& name) {
  const SafetensorsFile file = SafetensorsFile::open(kFixtures / name / "logits.safetensors");
  Wanted wanted;
  std::vector<int64_t> tokens(file.find("tokens")->bytes / 8);
  file.read("tokens", tokens.data(), 0, tokens.size() * 8);
  wanted.tokens.assign(tokens.begin(), tokens.end());
  wanted.logits.resize(file.find("logits")->bytes / 4);
  file.read("logits", wanted.logits.data(), 0, wanted.logits.size() * 4);
  return wanted;
}

struct Distance {
  double largest = 0.0, divergence = 0.0;
};

Distance distance(const std::vector<std::vector<float>>& rows, const std::vector<float>& wanted) {
  Distance found;
  for (size_t t = 0; t < rows.size(); ++t) {
    const float* other = wanted.data() + t * rows[t].size();
    double sum_a = 0.0, sum_b = 0.0;
    for (size_t i = 0; i < rows[t].size(); ++i)
      sum_a += std::exp(double{rows[t][i]}), sum_b += std::exp(double{other[i]});
    double divergence = 0.0;
    for (size_t i = 0; i < rows[t].size(); ++i) {
      found.largest = std::max(found.largest, std::abs(double{rows[t][i]} - double{other[i]}));
      const double p = rows[t][i] - std::log(sum_a), q = other[i] - std::log(sum_b);
      divergence += std::exp(q) * (q - p);
    }
    found.divergence = std::max(found.divergence, divergence);
  }
  return found;
}

Distance distance_of(const std::string& name, ConvertedModel& model) {
  const Wanted wanted = wanted_of(name);
  return distance(logits_of(model.model, *model.source, wanted.tokens, 1), wanted.logits);
}

class Families : public ::testing::TestWithParam<std::string> {};

TEST_P(Families, GiveTheLogitsOfTransformers) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  const Distance found = distance_of(GetParam(), model);
  EXPECT_LT(found.largest, 1e-4);
  EXPECT_LT(found.divergence, 1e-9);
}

TEST_P(Families, ComeBackBitForBit) {
  ConvertedModel model = open_hugging_face(kFixtures / GetParam(), false);
  Folder out;
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
  Folder out;
  const TensorMap map(*described.family, model.model);
  write_gguf(out.path() / "model.gguf", described, map, *model.source, std::nullopt, [](const OutputProgress&) {});
  const auto files = open_gguf(out.path() / "model.gguf");
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

// ---- a fixture changed a little

std::string text_of_file(const fs::path& path) { return read_whole_file(path, 1 << 24); }

void write_text_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

fs::path copy_of(const std::string& name, const Folder& folder) {
  fs::copy(kFixtures / name, folder.path() / name, fs::copy_options::recursive);
  return folder.path() / name;
}

/// Rewrites model.safetensors with other names: `rename` gives the new name, "" drops the tensor.
template <typename Rename>
void rename_tensors(const fs::path& directory, Rename&& rename, const std::map<std::string, std::string>& copies = {}) {
  const SafetensorsFile file = SafetensorsFile::open(directory / "model.safetensors");
  std::vector<SafetensorsEntry> entries;
  std::vector<std::string> sources;
  const auto add = [&](const SafetensorsEntry& entry, const std::string& name) {
    if (name.empty()) return;
    entries.push_back(entry);
    entries.back().name = name;
    sources.push_back(entry.name);
  };
  for (const SafetensorsEntry& entry : file.entries()) {
    add(entry, rename(entry.name));
    if (const auto copy = copies.find(entry.name); copy != copies.end()) add(entry, copy->second);
  }
  SafetensorsWriter writer(directory / "new.safetensors", entries);
  for (const std::string& source : sources) {
    std::vector<char> bytes(file.find(source)->bytes);
    file.read(source, bytes.data(), 0, bytes.size());
    writer.write(bytes.data(), bytes.size());
  }
  writer.finish();
  fs::rename(directory / "new.safetensors", directory / "model.safetensors");
}

std::string message_of(const fs::path& directory) {
  try {
    open_hugging_face(directory, false);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    return error.what();
  }
  return "";
}

TEST(Weights, FilesWithoutTheBasePrefixAreTheSameModel) {
  Folder folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory,
                 [](const std::string& name) { return name.rfind("transformer.", 0) == 0 ? name.substr(12) : name; });
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("gpt2", model).largest, 1e-4);
}

TEST(Weights, ACopyOfTheTiedHeadIsTakenWhenItIsTheSame) {
  Folder folder;
  const fs::path directory = copy_of("gpt2", folder);
  const auto keep = [](const std::string& name) { return name; };
  rename_tensors(directory, keep, {{"transformer.wte.weight", "lm_head.weight"}});
  EXPECT_THAT(open_hugging_face(directory, false).notices, ::testing::ElementsAre(HasSubstr("second copy")));

  Folder other;
  const fs::path wrong = copy_of("gpt2", other);
  rename_tensors(wrong, keep, {{"transformer.wpe.weight", "lm_head.weight"}});
  EXPECT_THAT(message_of(wrong), HasSubstr("tie_word_embeddings"));
}

TEST(Weights, BuffersThatAreNoWeightsAreLeftOut) {
  Folder folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory, [](const std::string& name) { return name; },
                 {{"transformer.h.0.ln_1.bias", "transformer.h.0.attn.masked_bias"}});
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("gpt2", model).largest, 1e-4);
}

TEST(Weights, WhatIsMissingOrLeftOverIsNamed) {
  Folder folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory, [](const std::string& name) {
    return name == "transformer.h.1.mlp.c_fc.weight" ? "transformer.h.1.mlp.c_fd.weight" : name;
  });
  const std::string message = message_of(directory);
  EXPECT_THAT(message, HasSubstr("transformer.h.1.mlp.c_fc.weight [32, 128] is missing"));
  EXPECT_THAT(message, HasSubstr("transformer.h.1.mlp.c_fd.weight [32, 128] is left over"));
}

TEST(Weights, ShapesThatDisagreeWithTheConfigAreNamed) {
  Folder folder;
  const fs::path directory = copy_of("llama", folder);
  const fs::path config = directory / "config.json";
  write_text_file(config, replaced(text_of_file(config), "\"vocab_size\": 61", "\"vocab_size\": 60"));
  EXPECT_THAT(message_of(directory), HasSubstr("model.embed_tokens.weight is [61, 32], wanted [60, 32]"));
}

TEST(Weights, OldAndNewWordsForRotaryBaseAreOne) {
  Folder folder;
  const fs::path directory = copy_of("llama", folder);
  const fs::path config = directory / "config.json";
  const std::string text = text_of_file(config);
  const size_t begin = text.find("\"rope_parameters\""), end = text.find('}', begin);
  ASSERT_NE(begin, std::string::npos);
  std::string old = text.substr(0, begin) + "\"rope_scaling\": null, \"rope_theta\": 10000.0" + text.substr(end + 1);
  write_text_file(config, old);
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("llama", model).largest, 1e-4);
  write_text_file(config, replaced(old, "10000.0", "500.0"));
  ConvertedModel other = open_hugging_face(directory, false);
  EXPECT_EQ(other.model.rotary_base, 500.0);
  EXPECT_GT(distance_of("llama", other).largest, 1e-3);  // and it is not for nothing
}

TEST(Weights, AModelThatTheFamilyCannotExpressIsRefusedWithTheReason) {
  Folder folder;
  const fs::path directory = copy_of("gpt2", folder);
  const fs::path config = directory / "config.json";
  write_text_file(config,
                  replaced(text_of_file(config), "{", "{\"scale_attn_weights_\": 1, \"add_cross_attention\": 0,"));
  EXPECT_THAT(message_of(directory), HasSubstr("add_cross_attention"));
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
