// label: cpu
// tokenizer.json: the forms it comes in, which token ends documents, and files that are damaged or mean harm.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "io/tokenizer/pipeline.h"
#include "io/tokenizer/trained_tokenizer.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

fs::path golden(const char* name) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  return fs::path(source != nullptr ? source : ".") / "tests/io/golden/tokenizers" / name;
}

constexpr const char* kModel =
    R"("model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}, "merges": ["a b", "ab c"]})";
constexpr const char* kEnd = R"("added_tokens": [{"id": 5, "content": "</s>", "special": true}])";

std::string file_of(const std::string& members) { return "{\"version\": \"1.0\", " + members + "}"; }

class TokenizerJson : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const std::string& text, std::string_view end = {}) {
    put(directory_ / "tokenizer.json", text);
    return load_tokenizer(directory_ / "tokenizer.json", end);
  }
  Outcome refused(const std::string& text) {
    return outcome_of([&] { load(text); });
  }
  TemporaryDirectory directory_;
};

using Ids = std::vector<uint32_t>;

TEST_F(TokenizerJson, MergesAsTextAndAsPairsAreTheSame) {
  const auto written = load(file_of(std::string(kModel) + ", " + kEnd));
  std::string pairs = kModel;
  pairs.replace(pairs.find("[\"a b\""), std::string::npos, R"([["a", "b"], ["ab", "c"]]})");
  EXPECT_EQ(load(file_of(std::string(kEnd) + ", " + pairs))->hash(), written->hash());
  EXPECT_EQ(written->encode("abcab"), (Ids{4, 2}));
  EXPECT_EQ(written->vocabulary(), 6u);
  EXPECT_EQ(written->end_of_document(), 5u);
}

TEST_F(TokenizerJson, MergesComeBeforeTheVocabularyToo) {
  const std::string text = file_of(
      R"("model": {"merges": ["a b"], "vocab": {"a": 0, "b": 1, "ab": 2}, "type": "BPE"}, "added_tokens": [{"id": 3, "content": "</s>", "special": true}])");
  EXPECT_EQ(load(text)->encode("abb"), (Ids{2, 1}));
}

TEST_F(TokenizerJson, PiecesWithSpacesAreWrittenAsPairs) {
  const std::string text = file_of(
      R"("model": {"type": "BPE", "vocab": {" ": 0, "b": 1, " b": 2}, "merges": [[" ", "b"]]}, "added_tokens": [{"id": 3, "content": "</s>", "special": true}])");
  const auto tokenizer = load(text);
  EXPECT_NE(tokenizer->description().find("[\" \", \"b\"]"), std::string::npos);
  tokenizer->save(directory_.path());
  EXPECT_EQ(load_tokenizer(directory_.path())->encode("b b"), (Ids{1, 2}));
}

TEST_F(TokenizerJson, TheSameTokenizerHasTheSameDescriptionHoweverItIsWritten) {
  const std::string plain = file_of(std::string(kModel) + ", " + kEnd);
  std::string nested = plain;
  nested.insert(nested.size() - 1, R"(, "normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": null)");
  const std::string hash = load(plain)->hash();
  EXPECT_EQ(load(nested)->hash(), hash);
  nested.replace(nested.find("[]}"), 3, R"([{"type": "Sequence", "normalizers": [{"type": "NFC"}]}]})");
  const std::string with_nfc = load(nested)->hash();
  EXPECT_NE(with_nfc, hash);
  std::string single = plain;
  single.insert(single.size() - 1, R"(, "normalizer": {"type": "NFC"})");
  EXPECT_EQ(load(single)->hash(), with_nfc);
}

TEST_F(TokenizerJson, WhatHuggingFaceNeedsIsKept) {
  std::string text = file_of(std::string(kModel) + ", " + kEnd);
  text.insert(
      text.size() - 1,
      R"(, "truncation": {"max_length": 5, "stride": 0}, "padding": {"pad_id": 0}, "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [5], "tokens": ["</s>"]}}})");
  const auto tokenizer = load(text);
  for (const char* kept : {R"("max_length": 5)", R"("pad_id": 0)", R"("SpecialToken": {"id": "</s>")", R"("ids": [5])"})
    EXPECT_NE(tokenizer->description().find(kept), std::string::npos) << kept;
  Ids ids = tokenizer->encode("ab");
  tokenizer->add_special_tokens(ids);
  EXPECT_EQ(ids, (Ids{2, 5}));
}

TEST_F(TokenizerJson, WhichTokenEndsDocuments) {
  const std::string text = file_of(
      std::string(kModel) +
      R"(, "added_tokens": [{"id": 5, "content": "<eos>", "special": true}, {"id": 6, "content": "</s>", "special": true}, {"id": 7, "content": "<x>", "special": true}])");
  EXPECT_EQ(load(text)->end_of_document(), 6u);
  EXPECT_EQ(load(text, "<x>")->end_of_document(), 7u);
  EXPECT_EQ(load(text, "c")->end_of_document(), 3u);
  EXPECT_EQ(outcome_of([&] { load(text, "<none>"); }).code, ExitCode::bad_data);
  put(directory_ / "tokenizer_config.json", R"({"eos_token": {"content": "<eos>"}})");
  EXPECT_EQ(load(text)->end_of_document(), 5u);
  put(directory_ / "tokenizer_config.json", R"({"eos_token": "<x>", "pad_token": null})");
  EXPECT_EQ(load(text)->end_of_document(), 7u);
  const auto chosen = load(text, "c");  // a choice outlives the configuration that lies beside
  chosen->save(directory_.path());
  EXPECT_EQ(load_tokenizer(directory_.path())->end_of_document(), 3u);
  EXPECT_TRUE(chosen->encode("c").empty()) << "the end of document came out of text";
}

TEST_F(TokenizerJson, BadFilesAreRefusedByName) {
  const auto with = [&](const std::string& member) {
    return file_of(std::string(kModel) + ", " + kEnd + ", " + member);
  };
  const auto model = [&](const std::string& inside) {
    return file_of(std::string(kEnd) + ", \"model\": {" + inside + "}");
  };
  const std::pair<std::string, const char*> files[] = {
      {file_of(kModel), "end"},
      {file_of(kEnd), "model"},
      {R"({"version": "2.0", )" + std::string(kModel) + "}", "1.0"},
      {with(R"("normalizer": {"type": "Shout"})"), "Shout"},
      {with(R"("normalizer": {"type": "Shout"})"), "NFKC"},
      {with(R"("normalizer": [])"), "normalizer"},
      {with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"})"), "base64"},
      {with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="})"), "character map"},
      {with(R"("normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""})"), "compile"},
      {with(R"("normalizer": {"type": "Replace", "pattern": "x", "content": ""})"), "pattern"},
      {with(R"("pre_tokenizer": {"type": "Guess"})"), "UnicodeScripts"},
      {with(R"("pre_tokenizer": {"type": "FixedLength", "length": 0})"), "length"},
      {with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd"})"), "Odd"},
      {with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})"), "&&"},
      {with(R"("pre_tokenizer": {"type": "Metaspace", "replacement": "ab"})"), "one character"},
      {with(R"("decoder": {"type": "Morse"})"), "Morse"},
      {with(R"("post_processor": {"type": "Poem"})"), "Poem"},
      {with(R"("post_processor": {"type": "BertProcessing", "sep": ["x", 6], "cls": ["x", 0]})"), "6"},
      {file_of(std::string(kModel) + R"(, "added_tokens": [{"id": 9, "content": "</s>", "special": true}])"), "</s>"},
      {file_of(std::string(kModel) + R"(, "added_tokens": [{"id": 16777216, "content": "</s>", "special": true}])"),
       "2^24"},
      {file_of(std::string(kModel) + R"(, "added_tokens": [{"id": -1, "content": "</s>"}])"), "id"},
      {model(R"("type": "Oracle", "vocab": {"a": 0})"), "Oracle"},
      {model(R"("type": "BPE", "vocab": {"a": 0})"), "merges"},
      {model(R"("type": "BPE", "merges": [])"), "vocab"},
      {model(R"("type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [])"), "id 0"},
      {model(R"("type": "BPE", "vocab": {"a": 16777215}, "merges": [])"), "16777215"},
      {model(R"("type": "BPE", "vocab": {"a": 99999999999}, "merges": [])"), "2^24"},
      {model(R"("type": "BPE", "vocab": {"a": -1}, "merges": [])"), "vocab"},
      {model(R"("type": "BPE", "vocab": {"a": 1.5}, "merges": [])"), "vocab"},
      {model(R"("type": "BPE", "vocab": {"a": {}}, "merges": [])"), "vocab"},
      {model(R"("type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"])"), "ab"},
      {model(R"("type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a  b"])"), "a  b"},
      {model(R"("type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a"]])"), "pair"},
      {model(R"("type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b", "c"]])"), "pair"},
      {model(R"("type": "BPE", "vocab": {"a": 0}, "merges": [3])"), "number"},
      {model(R"("type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1)"), "dropout"},
      {file_of(
           R"("model": {"type": "BPE", "vocab": {"</s>": 0}, "merges": [], "unk_token": "<unk>"}, "added_tokens": [{"id": 0, "content": "</s>"}])"),
       "<unk>"},
      {model(R"("type": "Unigram", "vocab": {"a": 0})"), "vocab"},
      {model(R"("type": "Unigram", "vocab": [["a", -1]], "unk_id": 1)"), "unk_id"},
      {model(R"("type": "Unigram", "vocab": [["a", "b"]])"), "vocab"},
      {model(R"("type": "Unigram", "vocab": [["a"]])"), "pair"},
  };
  for (const auto& [text, word] : files) {
    const Outcome outcome = refused(text);
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << text << "\n" << outcome.message;
    EXPECT_TRUE(outcome.says("tokenizer.json")) << outcome.message;
    EXPECT_TRUE(outcome.says(word)) << text << "\nwanted " << word << " in: " << outcome.message;
  }
}

/// A long document is cut where a line ends, unless the normalizer makes something else of line ends.
TEST_F(TokenizerJson, LineEndsThatANormalizerChangesAreNoPlaceToCut) {
  BpeSpec bpe;
  for (int byte = 0; byte < 256; ++byte) bpe.pieces.emplace_back(1, static_cast<char>(byte));
  bpe.pieces.emplace_back(" b");
  bpe.merges = {{' ', 'b', 256}};
  const std::string whole = make_byte_level_tokenizer(bpe, "", {}, "")->description();
  const auto with = [&](const std::string& normalizer, const char* pre_tokenizer) {
    std::string text = whole;
    const std::string none = "\"normalizer\": null";
    text.replace(text.find(none), none.size(), "\"normalizer\": " + normalizer);
    if (pre_tokenizer != nullptr) {
      const size_t begin = text.find("\"pre_tokenizer\": "), end = text.find("\"post_processor\"");
      text.replace(begin, end - begin, std::string("\"pre_tokenizer\": ") + pre_tokenizer + ", ");
    }
    return load(text);
  };
  EXPECT_TRUE(with("null", nullptr)->may_cut("a\nb", 2));
  EXPECT_TRUE(with(R"({"type": "Lowercase"})", nullptr)->may_cut("a\nb", 2));
  for (const char* changes :
       {R"({"type": "BertNormalizer"})", R"({"type": "ByteLevel"})", R"({"type": "Strip"})", R"({"type": "Nmt"})"})
    EXPECT_FALSE(with(changes, nullptr)->may_cut("a\nb", 2)) << changes;
  EXPECT_EQ(with(R"({"type": "BertNormalizer"})", nullptr)->encode("a\nb").back(), 256u);
  EXPECT_TRUE(with(R"({"type": "BertNormalizer"})", R"({"type": "BertPreTokenizer"})")->may_cut("a\nb", 2));
}

TEST_F(TokenizerJson, NestsAreLimited) {
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += R"({"type": "Sequence", "normalizers": [)";
  const Outcome outcome = refused(file_of(std::string(kModel) + ", \"normalizer\": " + deep));
  EXPECT_EQ(outcome.code, ExitCode::bad_data);
}

/// Whatever happens to a file, it is refused as bad data or it is a tokenizer that works.
TEST_F(TokenizerJson, DamagedFilesNeverCrash) {
  std::mt19937 random(3);
  for (const char* name : {"added.json", "unigram_metaspace.json", "llama.json", "bert.json"}) {
    const std::string whole = get(golden(name));
    for (int i = 0; i < 150; ++i) {
      std::string text = whole;
      if (i % 3 == 0) {
        text.resize(random() % text.size());
      } else {
        for (unsigned k = 0; k < 1 + random() % 4; ++k)
          text[random() % text.size()] = i % 3 == 1 ? "\"[]{},:0"[random() % 8] : static_cast<char>(random());
      }
      const Outcome outcome = outcome_of([&] {
        const auto tokenizer = load(text);
        try {
          tokenizer->decode(tokenizer->encode("Hello, wörld! 123"));
        } catch (const Error& error) {  // an unknown character without an unknown token
          EXPECT_EQ(error.code(), ExitCode::bad_data);
        }
      });
      EXPECT_TRUE(outcome.code == ExitCode::done || outcome.code == ExitCode::bad_data) << outcome.message;
    }
  }
}

TEST_F(TokenizerJson, ATrainedBpeBecomesATokenizer) {
  BpeSpec bpe;
  for (int byte = 0; byte < 256; ++byte) bpe.pieces.emplace_back(1, static_cast<char>(byte));
  bpe.pieces.insert(bpe.pieces.end(), {"th", "the", " the"});
  bpe.merges = {{'t', 'h', 256}, {256, 'e', 257}, {' ', 257, 258}};
  const auto tokenizer = make_byte_level_tokenizer(bpe, "", {"<pad>"}, "tiny");
  EXPECT_EQ(tokenizer->name(), "tiny");
  EXPECT_EQ(tokenizer->vocabulary(), 261u);
  EXPECT_EQ(tokenizer->end_of_document(), 260u);
  EXPECT_EQ(tokenizer->find_token("<pad>"), 259u);
  EXPECT_EQ(tokenizer->token_name(260), "<|endoftext|>");
  EXPECT_EQ(tokenizer->token_name(258), "Ġthe");
  EXPECT_EQ(tokenizer->encode("the the"), (Ids{257, 258}));
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
  uint64_t size = 0;
  for (const uint32_t id : tokenizer->encode(bytes)) size += tokenizer->text_bytes(id);
  EXPECT_EQ(size, 256u);
  tokenizer->save(directory_.path());
  const auto again = load_tokenizer(directory_.path());
  EXPECT_EQ(again->hash(), tokenizer->hash());
  EXPECT_EQ(again->name(), "tiny");
  EXPECT_EQ(outcome_of([&] { make_byte_level_tokenizer(bpe, "", {"x", "x"}, ""); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([&] { make_byte_level_tokenizer(bpe, "", {"the"}, ""); }).code, ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
