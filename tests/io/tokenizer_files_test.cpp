// label: cpu
// The other files that tokenizers come in: SentencePiece models, tiktoken ranks, GPT-2's and BERT's vocabularies; by
// name or in a directory, whole or damaged.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "io/tokenizer/base64.h"
#include "io/tokenizer/pipeline.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;
using Ids = std::vector<uint32_t>;

fs::path golden(const char* name) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  return fs::path(source != nullptr ? source : ".") / "tests/io/golden/tokenizers" / name;
}

TEST(TokenizerFiles, Gpt2FilesAreTheTokenizerJson) {
  const TemporaryDirectory directory;
  put(directory / "vocab.json", R"({"a": 0, "b": 1, "\u0120": 2, "ab": 3, "\u0120ab": 4, "<|endoftext|>": 5})");
  put(directory / "merges.txt", "#version: 0.2\na b\n\u0120 ab\n");
  for (const fs::path& path : {directory.path(), directory / "vocab.json", directory / "merges.txt"}) {
    const auto tokenizer = load_tokenizer(path);
    EXPECT_EQ(tokenizer->encode("ab abb"), (Ids{3, 4, 1}));
    EXPECT_EQ(tokenizer->end_of_document(), 5u);
  }
  put(directory / "merges.txt", "a b\nx y\n");
  EXPECT_EQ(outcome_of([&] { load_tokenizer(directory.path()); }).code, ExitCode::bad_data);
  fs::remove(directory / "merges.txt");
  EXPECT_EQ(outcome_of([&] { load_tokenizer(directory.path()); }).code, ExitCode::missing_input);
}

TEST(TokenizerFiles, BertVocabularyCasedAndUncased) {
  const TemporaryDirectory directory;
  put(directory / "vocab.txt", "[PAD]\r\n[UNK]\n[CLS]\n[SEP]\nhello\n##s\nHello\n!\n");
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_EQ(tokenizer->encode("Hellos! ?"), (Ids{4, 5, 7, 1}));
  Ids framed = tokenizer->encode("hello");
  tokenizer->add_special_tokens(framed);
  EXPECT_EQ(framed, (Ids{2, 4, 3}));
  EXPECT_EQ(tokenizer->end_of_document(), 3u);
  put(directory / "tokenizer_config.json", R"({"do_lower_case": false})");
  EXPECT_EQ(load_tokenizer(directory.path())->encode("Hellos"), (Ids{6, 5}));
  put(directory / "vocab.txt", "");
  EXPECT_EQ(outcome_of([&] { load_tokenizer(directory.path()); }).code, ExitCode::bad_data);
}

std::string ranks_of(const std::vector<std::string>& tokens) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) text += to_base64(tokens[i]) + " " + std::to_string(i) + "\n";
  return text;
}

std::vector<std::string> all_bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

TEST(TokenizerFiles, TiktokenMergesTheLeftmostOfEqualRanks) {
  const TemporaryDirectory directory;
  std::vector<std::string> tokens = all_bytes();
  tokens.insert(tokens.end(), {"aa", "aaa"});  // aaaa: aa aa, then aaa from neither
  put(directory / "x_cl100k.tiktoken", ranks_of(tokens));
  const auto tokenizer = load_tokenizer(directory / "x_cl100k.tiktoken");
  EXPECT_EQ(tokenizer->encode("aaaaa"), (Ids{256, 257}));
  EXPECT_EQ(tokenizer->encode("aaa"), Ids{257});
  EXPECT_EQ(tokenizer->end_of_document(), 258u);
  EXPECT_EQ(tokenizer->encode("<|endoftext|>", {true}), Ids{258});
  EXPECT_EQ(load_tokenizer(directory.path())->hash(), tokenizer->hash());
}

TEST(TokenizerFiles, TiktokenSpecialTokensKeepTheirPublishedIds) {
  const TemporaryDirectory directory;
  std::vector<std::string> tokens = all_bytes();
  for (int i = 0; tokens.size() < 100256; ++i) tokens.push_back("x" + std::to_string(i));
  put(directory / "cl100k_base.tiktoken", ranks_of(tokens));
  const auto tokenizer = load_tokenizer(directory / "cl100k_base.tiktoken");
  EXPECT_EQ(tokenizer->vocabulary(), 100277u);
  EXPECT_EQ(tokenizer->end_of_document(), 100257u);
  EXPECT_EQ(tokenizer->find_token("<|endofprompt|>"), 100276u);
  EXPECT_EQ(tokenizer->token_name(100256), "");
}

TEST(TokenizerFiles, NamesAndSizesTellTheFamily) {
  const TemporaryDirectory directory;
  const auto ranks = [&](const char* name, size_t count) {
    std::vector<std::string> tokens = all_bytes();
    for (int i = 0; tokens.size() < count; ++i) tokens.push_back("x" + std::to_string(i));
    put(directory / name, ranks_of(tokens));
    return load_tokenizer(directory / name);
  };
  const auto llama3 = ranks("three.model", 128000), llama4 = ranks("four.model", 200000);
  EXPECT_EQ(llama3->find_token("<|eot_id|>"), 128009u);
  EXPECT_EQ(llama4->find_token("<|eot|>"), 200008u);
  EXPECT_EQ(llama4->end_of_document(), 200001u);
  EXPECT_EQ(ranks("qwen.tiktoken", 151643)->find_token("<|im_end|>"), 151645u);
  EXPECT_EQ(ranks("multilingual.tiktoken", 50257)->end_of_document(), 50257u);
}

std::string tekken(const std::string& sizes, const std::string& token, const std::string& more = "") {
  std::string text =
      R"({"config": {"pattern": ")" + std::string(R"(\\p{N}|[^\\p{N}]+)") + "\", " + sizes + R"(}, "vocab": [)";
  for (int byte = 0; byte < 256; ++byte)
    text += "{\"rank\": " + std::to_string(byte) +
            ", \"token_bytes\": " + json_quote(to_base64(std::string(1, static_cast<char>(byte)))) + "}, ";
  return text + token + "]" + more + "}";
}

TEST(TokenizerFiles, TekkenPutsSpecialTokensFirst) {
  const TemporaryDirectory directory;
  const std::string sizes = R"("default_vocab_size": 277, "default_num_special_tokens": 20)";
  const std::string token = R"({"rank": 256, "token_bytes": "YWI=", "token_str": "ab"})";
  put(directory / "tekken.json", tekken(sizes, token + R"(, {"rank": 257, "token_bytes": "YWJh"})"));
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_EQ(tokenizer->vocabulary(), 277u);
  EXPECT_EQ(tokenizer->encode("aba1"), (Ids{276, 20 + 'a', 20 + '1'})) << "a rank beyond the size is not in use";
  EXPECT_EQ(tokenizer->end_of_document(), 2u);
  EXPECT_EQ(tokenizer->token_name(3), "[INST]");
  put(directory / "tekken.json",
      tekken(sizes, token, R"(, "special_tokens": [{"rank": 1, "token_str": "</s>", "is_control": true}])"));
  EXPECT_EQ(load_tokenizer(directory.path())->end_of_document(), 1u);
  EXPECT_EQ(load_tokenizer(directory.path())->token_name(7), "<SPECIAL_7>");
  const std::string twice = R"({"rank": 1, "token_bytes": "YWI="})", empty = R"({"rank": 256, "token_bytes": ""})";
  for (const std::string& text : {tekken(sizes, twice), tekken(sizes, empty), tekken(sizes, R"({"rank": 256})"),
                                  tekken(R"("default_vocab_size": 278, "default_num_special_tokens": 20)", token),
                                  tekken(R"("default_vocab_size": 99999999, "default_num_special_tokens": 20)", token),
                                  tekken(R"("default_vocab_size": 277, "default_num_special_tokens": 277)", token),
                                  tekken(sizes, token, R"(, "special_tokens": [{"rank": 20, "token_str": "</s>"}])"),
                                  std::string(R"({"vocab": []})")}) {
    put(directory / "tekken.json", text);
    const Outcome outcome = outcome_of([&] { load_tokenizer(directory.path()); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << text.substr(0, 120);
    EXPECT_TRUE(outcome.says("tekken.json")) << outcome.message;
  }
}

TEST(TokenizerFiles, BadRankFilesAreRefused) {
  const TemporaryDirectory directory;
  const fs::path file = directory / "r50k.tiktoken";
  const std::string good = ranks_of(all_bytes());
  std::vector<std::string> bomb = all_bytes();
  for (char c = 'a'; c <= 'z'; ++c)
    for (int length = 4086; length <= 4096; ++length) bomb.emplace_back(static_cast<size_t>(length), c);
  for (const std::string& text :
       {std::string(), std::string("YQ==\n"), std::string("YQ== x\n"), std::string("Y!== 0\n"),
        std::string("YQ== 0 0\n"), std::string("YQ== -1\n"), std::string("YQ== 99999999999999999999\n"),
        std::string("YQ== 16777215\n"), std::string("YQ== 0\nYg== 0\n"),
        good + to_base64(std::string(5000, 'a')) + " 256\n", ranks_of(bomb)}) {
    put(file, text);
    const Outcome outcome = outcome_of([&] { load_tokenizer(file); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << text.substr(0, 60);
    EXPECT_TRUE(outcome.says("r50k.tiktoken")) << outcome.message;
  }
  put(directory / "unknown.tiktoken", good);
  const Outcome outcome = outcome_of([&] { load_tokenizer(directory / "unknown.tiktoken"); });
  EXPECT_TRUE(outcome.code == ExitCode::bad_data && outcome.says("cl100k")) << outcome.message;
}

TEST(TokenizerFiles, SentencePieceMakesTextReadyAsItDoes) {
  const auto tokenizer = load_tokenizer(golden("sp_unigram.model"));
  EXPECT_EQ(tokenizer->encode("  the   quick "), tokenizer->encode("the quick"));
  // As there, a user-defined piece with a plain space in it is not found: the text it is looked for in has U+2581.
  EXPECT_EQ(tokenizer->encode("x<sep>brown fox"), (Ids{6, 3, 114, 96}));
  EXPECT_EQ(tokenizer->token_name(4), "brown fox");
  EXPECT_EQ(tokenizer->token_name(tokenizer->end_of_document()), "</s>");
  const Ids forged = tokenizer->encode("</s>");
  EXPECT_EQ(std::find(forged.begin(), forged.end(), tokenizer->end_of_document()), forged.end());
  const auto kept = load_tokenizer(golden("sp_bpe.model"));
  EXPECT_EQ(kept->decode(kept->encode("a  b ")), "a  b ");
  EXPECT_EQ(kept->decode(kept->encode("\u4f60\xFF")), "\u4f60\uFFFD");
}

TEST(TokenizerFiles, DamagedSentencePieceModelsNeverCrash) {
  const TemporaryDirectory directory;
  std::mt19937 random(8);
  int refused = 0;
  for (const char* name : {"sp_unigram.model", "sp_bpe.model"}) {
    const std::string whole = get(golden(name));
    for (int i = 0; i < 300; ++i) {
      std::string bytes = whole;
      if (i % 3 == 0)
        bytes.resize(random() % bytes.size());
      else
        for (unsigned k = 0; k < 1 + random() % 3; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
      put(directory / "t.model", bytes);
      const Outcome outcome = outcome_of([&] {
        const auto tokenizer = load_tokenizer(directory / "t.model");
        tokenizer->decode(tokenizer->encode("Hello \u4f60 <sep> world"));
      });
      EXPECT_TRUE(outcome.code == ExitCode::done || outcome.code == ExitCode::bad_data) << outcome.message;
      refused += outcome.code != ExitCode::done;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace capstan
