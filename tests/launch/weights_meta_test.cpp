// label: cpu
// Checkpoints in the layout of Meta: their names, their order of rotation and params.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/weights/model_settings.h"
#include "tests/launch/weights_fixtures.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

/// Fixture llama under Meta's names; with q and k `turned` to pairs, as Meta has them.
fs::path meta_copy(const TemporaryDirectory& folder, bool turned, const std::string& params) {
  const fs::path directory = folder / (turned ? "turned" : "straight");
  fs::create_directory(directory);
  const std::map<std::string, std::string> words = {{"model.", ""},
                                                    {"self_attn.q_proj", "attention.wq"},
                                                    {"self_attn.k_proj", "attention.wk"},
                                                    {"embed_", "tok_emb"},
                                                    {"self_attn.v_proj", "attention.wv"},
                                                    {"self_attn.o_proj", "attention.wo"},
                                                    {"lm_head", "output"},
                                                    {"post_attention_layernorm", "ffn_norm"},
                                                    {"input_layernorm", "attention_norm"},
                                                    {"tok_embtokens", "tok_embeddings"},
                                                    {"mlp.gate_proj", "feed_forward.w1"},
                                                    {"mlp.up_proj", "feed_forward.w3"},
                                                    {"mlp.down_proj", "feed_forward.w2"}};
  const SafetensorsFile file = SafetensorsFile::open(kFixtures / "llama" / "model.safetensors");
  std::vector<SafetensorsEntry> entries(file.entries().begin(), file.entries().end());
  for (SafetensorsEntry& entry : entries)
    for (int twice = 0; twice < 2; ++twice)
      for (const auto& [theirs, metas] : words)
        if (const size_t at = entry.name.find(theirs); at != std::string::npos)
          entry.name.replace(at, theirs.size(), metas);
  SafetensorsWriter writer(directory / "consolidated.safetensors", entries);
  for (size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& stored = file.entries()[i];
    std::vector<char> bytes(stored.bytes), rows(stored.bytes);
    file.read(stored.name, bytes.data(), 0, bytes.size());
    const bool rotated = turned && (entries[i].name.find("attention.wq") != std::string::npos ||
                                    entries[i].name.find("attention.wk") != std::string::npos);
    const size_t head = 8, row = rotated ? stored.bytes / static_cast<size_t>(stored.shape[0]) : stored.bytes;
    for (size_t r = 0; r < stored.bytes / row; ++r) {
      const size_t in = r % head, to = rotated ? r - in + (in % (head / 2)) * 2 + in / (head / 2) : r;
      std::copy_n(bytes.data() + r * row, row, rows.data() + to * row);
    }
    writer.write(rows.data(), rows.size());
  }
  writer.finish();
  write_text_file(directory / "params.json", params);
  return directory;
}

const char* const kMetaText =
    R"({"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1, "multiple_of": 8,
        "ffn_dim_multiplier": 0.47, "norm_eps": 1e-06, "max_seq_len": 64})";

TEST(Weights, MetasLayoutIsTheSameModelWithPairsTurned) {
  TemporaryDirectory folder;
  ConvertedModel model = open_model(meta_copy(folder, true, kMetaText), -1);
  EXPECT_EQ(model.model.vocabulary, 61);
  EXPECT_EQ(model.model.mlp(), 40);
  EXPECT_LT(distance_of("llama", model).largest, 1e-4);
  EXPECT_STREQ(family_for(model.model).model_type, "llama");
  const ConvertedModel original = open_hugging_face(kFixtures / "llama", false);
  EXPECT_THAT(model_differences(model.model, original.model), ::testing::IsEmpty());

  ConvertedModel straight = open_model(meta_copy(folder, false, kMetaText), -1);
  EXPECT_GT(distance_of("llama", straight).largest, 1e-2);  // rows that were not turned, turned
}

TEST(Weights, MistralsParamsAreMetasWithAWindow) {
  TemporaryDirectory folder;
  ConvertedModel model =
      open_model(meta_copy(folder, true,
                           R"({"dim": 32, "n_layers": 2, "head_dim": 8, "hidden_dim": 40, "n_heads": 4, "n_kv_heads": 2,
                    "norm_eps": 1e-06, "sliding_window": 4, "vocab_size": 61, "rope_theta": 10000.0})"),
                 -1);
  EXPECT_EQ(model.model.window, 4);
  EXPECT_EQ(model.model.context, 4096);
  EXPECT_STREQ(family_for(model.model).model_type, "mistral");
  EXPECT_GT(distance_of("llama", model).largest, 1e-3);
  model.model.window = 0;
  EXPECT_LT(distance_of("llama", model).largest, 1e-4);
}

TEST(Weights, ParamsThatNobodyVouchesForAreRefused) {
  const auto refused = [](const std::string& params) -> std::string {
    const TemporaryDirectory folder;
    return support::refusal_of(ExitCode::bad_data, [&] { open_model(meta_copy(folder, true, params), -1); });
  };
  const std::string good = kMetaText;
  EXPECT_THAT(refused("[]"), HasSubstr("params.json"));
  EXPECT_THAT(refused(replaced(good, "\"vocab_size\": -1", "\"vocab_size\": -2")), HasSubstr("vocab_size"));
  EXPECT_THAT(refused(replaced(good, "\"vocab_size\": -1", "\"vocab_size\": 60")), HasSubstr("tok_embeddings"));
  EXPECT_THAT(refused(replaced(good, "\"multiple_of\": 8", "\"multiple_of\": 0")), HasSubstr("multiple_of"));
  EXPECT_THAT(refused(replaced(good, "\"multiple_of\": 8", "\"multiple_of\": 1e300")), HasSubstr("multiple_of"));
  EXPECT_THAT(refused(replaced(good, "0.47", "\"wide\"")), HasSubstr("ffn_dim_multiplier"));
  EXPECT_THAT(refused(replaced(good, "0.47", "1e7")), HasSubstr("ffn_dim_multiplier"));
  EXPECT_THAT(refused(replaced(good, "0.47", "0.3")), HasSubstr("feed_forward.w1.weight"));
  EXPECT_THAT(refused(replaced(good, "{", "{\"use_scaled_rope\": true, ")), HasSubstr("use_scaled_rope"));
  EXPECT_THAT(refused(replaced(good, "{", "{\"moe\": {\"num_experts\": 8}, ")), HasSubstr("moe"));
  EXPECT_THAT(refused(replaced(good, "\"dim\": 32, ", "")), HasSubstr("dim"));
}

TEST(Weights, MetasPicklesAreRefusedWithTheWayOut) {
  TemporaryDirectory folder;
  const fs::path directory = meta_copy(folder, true, kMetaText);
  fs::remove(directory / "consolidated.safetensors");
  write_text_file(directory / "consolidated.00.pth", "PK");
  EXPECT_THAT(support::outcome_of([&] { open_model(directory, -1); }).message,
              ::testing::AllOf(HasSubstr("pickle"), HasSubstr("s.save_file")));
}

}  // namespace
}  // namespace capstan
