// label: cpu
// What files of weights may be like and what not: other names, copies, buffers, what is missing or left over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/weights/safetensors_output.h"
#include "tests/launch/weights_fixtures.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

/// Rewrites model.safetensors with other names: `rename` gives the new name, "" drops the tensor.
template <typename Rename>
inline void rename_tensors(const fs::path& directory, Rename&& rename,
                           const std::map<std::string, std::string>& copies = {}) {
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
  return support::complaint_of(ExitCode::bad_data, [&] { open_hugging_face(directory, false); });
}

TEST(Weights, FilesWithoutTheBasePrefixAreTheSameModel) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory,
                 [](const std::string& name) { return name.rfind("transformer.", 0) == 0 ? name.substr(12) : name; });
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("gpt2", model).largest, 1e-4);
}

TEST(Weights, ACopyOfTheTiedHeadIsTakenWhenItIsTheSame) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt2", folder);
  const auto keep = [](const std::string& name) { return name; };
  rename_tensors(directory, keep, {{"transformer.wte.weight", "lm_head.weight"}});
  EXPECT_THAT(open_hugging_face(directory, false).notices, ::testing::ElementsAre(HasSubstr("second copy")));

  TemporaryDirectory other;
  const fs::path wrong = copy_of("gpt2", other);
  rename_tensors(wrong, keep, {{"transformer.wpe.weight", "lm_head.weight"}});
  EXPECT_THAT(message_of(wrong), HasSubstr("tie_word_embeddings"));
}

TEST(Weights, BuffersThatAreNoWeightsAreLeftOut) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory, [](const std::string& name) { return name; },
                 {{"transformer.h.0.ln_1.bias", "transformer.h.0.attn.masked_bias"}});
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("gpt2", model).largest, 1e-4);
}

/// A tensor more, of any type, in the file's header and data.
void add_tensor(const fs::path& directory, const std::string& name, const std::string& type, size_t bytes) {
  const fs::path path = directory / "model.safetensors";
  const std::string old = text_of_file(path);
  uint64_t length = 0;
  std::memcpy(&length, old.data(), 8);
  const size_t end = old.size() - 8 - length;
  const std::string header = fmt::format(R"({{"{}":{{"dtype":"{}","shape":[1,1,{}],"data_offsets":[{},{}]}},)", name,
                                         type, bytes, end, end + bytes) +
                             old.substr(9, length - 1);
  const uint64_t longer = header.size();
  write_text_file(path, std::string(reinterpret_cast<const char*>(&longer), 8) + header + old.substr(8 + length) +
                            std::string(bytes, '\1'));
}

TEST(Weights, BuffersMayBeOfAnyType) {
  for (const char* type : {"BOOL", "U8", "I8", "F8_E4M3"}) {
    TemporaryDirectory folder;
    const fs::path directory = copy_of("gpt2", folder);
    add_tensor(directory, "transformer.h.0.attn.bias", type, 64);
    ConvertedModel model = open_hugging_face(directory, false);
    EXPECT_LT(distance_of("gpt2", model).largest, 1e-4) << type;
  }
}

TEST(Weights, AWeightOfATypeThatNothingComputesWithIsNamed) {
  for (const char* type : {"F8_E4M3", "I8", "U8"}) {
    TemporaryDirectory folder;
    const fs::path directory = copy_of("gpt2", folder);
    rename_tensors(directory, [](const std::string& name) { return name == "transformer.ln_f.bias" ? "" : name; });
    add_tensor(directory, "transformer.ln_f.bias", type, 32);
    EXPECT_THAT(message_of(directory), HasSubstr(fmt::format("transformer.ln_f.bias is of type {}, wanted F64", type)));
  }
}

TEST(Weights, MoreFilesThanCanBeReadAgainAreRefusedBeforeOneIsWritten) {
  ConvertedModel model = open_hugging_face(kFixtures / "gpt2", false);
  TemporaryDirectory out;
  const auto write = [&](size_t most) {
    write_safetensors(
        out.path(), *model.map, *model.source, std::nullopt, 1, [](const OutputProgress&) {}, most);
  };
  const size_t tensors = model.map->tensors().size();
  EXPECT_THAT(support::refusal_of(ExitCode::usage, [&] { write(tensors - 1); }),
              HasSubstr(fmt::format("{} files, wanted at most {}", tensors, tensors - 1)));
  EXPECT_TRUE(fs::is_empty(out.path()));
  write(tensors);
  EXPECT_EQ(open_safetensors_directory(out.path())->tensors().size(), tensors);
}

TEST(Weights, PositionIdsAreLeftOutWhateverStandsBeforeThem) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt1", folder);
  rename_tensors(directory, [](const std::string& name) { return name; },
                 {{"transformer.h.0.ln_1.bias", "transformer.position_ids"},
                  {"transformer.h.1.ln_1.bias", "position_ids"},
                  {"transformer.h.1.ln_2.bias", "transformer.embeddings.position_ids"}});
  ConvertedModel model = open_hugging_face(directory, false);
  EXPECT_LT(distance_of("gpt1", model).largest, 1e-4);
}

TEST(Weights, WhatIsMissingOrLeftOverIsNamed) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt2", folder);
  rename_tensors(directory, [](const std::string& name) {
    return name == "transformer.h.1.mlp.c_fc.weight" ? "transformer.h.1.mlp.c_fd.weight" : name;
  });
  const std::string message = message_of(directory);
  EXPECT_THAT(message, HasSubstr("transformer.h.1.mlp.c_fc.weight [32, 128] is missing"));
  EXPECT_THAT(message, HasSubstr("transformer.h.1.mlp.c_fd.weight [32, 128] is left over"));
}

TEST(Weights, ShapesThatDisagreeWithTheConfigAreNamed) {
  TemporaryDirectory folder;
  const fs::path directory = copy_of("llama", folder);
  const fs::path config = directory / "config.json";
  write_text_file(config, replaced(text_of_file(config), "\"vocab_size\": 61", "\"vocab_size\": 60"));
  EXPECT_THAT(message_of(directory), HasSubstr("model.embed_tokens.weight is [61, 32], wanted [60, 32]"));
}

TEST(Weights, OldAndNewWordsForRotaryBaseAreOne) {
  TemporaryDirectory folder;
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
  TemporaryDirectory folder;
  const fs::path directory = copy_of("gpt2", folder);
  const fs::path config = directory / "config.json";
  write_text_file(config,
                  replaced(text_of_file(config), "{", "{\"scale_attn_weights_\": 1, \"add_cross_attention\": 0,"));
  EXPECT_THAT(message_of(directory), HasSubstr("add_cross_attention"));
}

}  // namespace
}  // namespace capstan
