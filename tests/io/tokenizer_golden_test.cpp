// label: cpu
// Small tokenizers of every kind with the ids that Hugging Face `tokenizers`, SentencePiece and tiktoken give a list of
// texts (tests/io/tokenizer_goldens.py). CAPSTAN_TOKENIZER_CASES names another directory of such cases.
#include <gtest/gtest.h>

#include <cstdlib>

#include "io/json_events.h"
#include "io/tokenizer/base64.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/utf8.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

fs::path cases_directory() {
  if (const char* named = std::getenv("CAPSTAN_TOKENIZER_CASES")) return named;
  const char* source = std::getenv("CAPSTAN_SOURCE");
  return fs::path(source != nullptr ? source : ".") / "tests/io/golden/tokenizers";
}

const JsonValue& cases() {
  static const JsonValue all =
      parse_json(get(cases_directory() / "cases.json"), "cases.json", {32, size_t{1} << 28, 1024, size_t{1} << 24});
  return all;
}

std::vector<uint32_t> ids_of(const JsonValue& list) {
  std::vector<uint32_t> ids;
  for (const JsonValue& id : list.array("ids")) ids.push_back(static_cast<uint32_t>(id.count("id")));
  return ids;
}

std::vector<uint32_t> encoded(TokenEncoder& encoder, std::string_view text) {
  std::vector<uint32_t> ids;
  encoder.encode(text, true, ids);
  return ids;
}

/// What a person sees: broken characters as U+FFFD.
std::string shown(const Tokenizer& tokenizer, const std::vector<uint32_t>& ids) {
  std::string text;
  Utf8Repair repair;
  repair.push(tokenizer.decode(ids), text);
  repair.finish(text);
  return text;
}

/// Texts that are no UTF-8, which JSON holds as base64, where the peer takes bytes.
void check_broken(const Tokenizer& tokenizer, const JsonValue& wanted, const std::string& name) {
  const JsonValue* ids = wanted.find("broken");
  if (ids == nullptr) return;
  const JsonValue::Array& texts = cases().member("broken").array("broken");
  for (size_t i = 0; i < texts.size(); ++i)
    EXPECT_EQ(tokenizer.encode(from_base64(texts[i].text("text")).value()), ids_of(ids->array("broken")[i]))
        << name << ", broken text " << i << ": " << texts[i].text("text");
}

void check(const Tokenizer& tokenizer, const JsonValue& wanted, const std::string& name) {
  check_broken(tokenizer, wanted, name);
  const JsonValue::Array& texts = cases().member("texts").array("texts");
  const auto plain = tokenizer.encoder(), special = tokenizer.encoder({true});
  int wrong = 0;
  for (size_t i = 0; i < texts.size() && wrong < 3; ++i) {
    const std::string& text = texts[i].text("text");
    const std::vector<uint32_t> ids = encoded(*plain, text), right = ids_of(wanted.member("ids").array("ids")[i]);
    EXPECT_EQ(ids, right) << name << ", text " << i << ": " << text;
    if (const JsonValue* framed = wanted.find("framed")) {
      std::vector<uint32_t> around = encoded(*special, text);
      tokenizer.add_special_tokens(around);
      EXPECT_EQ(around, ids_of(framed->array("framed")[i])) << name << ", special, text " << i << ": " << text;
      const std::string& decoded = wanted.member("decoded").array("decoded")[i].text("decoded");
      EXPECT_EQ(shown(tokenizer, around), decoded) << name << ", text " << i;
      wrong += around != ids_of(framed->array("framed")[i]);
    }
    wrong += ids != right;
  }
}

TEST(TokenizerGolden, SameIdsAsThePeers) {
  const JsonValue::Array& all = cases().member("tokenizers").array("tokenizers");
  ASSERT_GE(all.size(), 10u);
  for (const JsonValue& one : all) {
    const std::string& file = one.member("file").text("file");
    const auto tokenizer = load_tokenizer(cases_directory() / file, one.member("end").text("end"));
    check(*tokenizer, one, file);
  }
}

TEST(TokenizerGolden, WrittenAndReadAgainIsTheSame) {
  const TemporaryDirectory directory;
  for (const JsonValue& one : cases().member("tokenizers").array("tokenizers")) {
    const std::string& file = one.member("file").text("file");
    const auto tokenizer = load_tokenizer(cases_directory() / file, one.member("end").text("end"));
    tokenizer->save(directory.path());
    const auto again = load_tokenizer(directory.path());
    EXPECT_EQ(again->hash(), tokenizer->hash()) << file;
    EXPECT_EQ(again->end_of_document(), tokenizer->end_of_document()) << file;
    check(*again, one, file + " written and read");
  }
}

TEST(TokenizerGolden, PiecesOfADocumentGiveTheTokensOfTheWhole) {
  std::string document;
  for (const JsonValue& text : cases().member("texts").array("texts")) document += text.text("text") + "x\ny";
  int cut_somewhere = 0;
  for (const JsonValue& one : cases().member("tokenizers").array("tokenizers")) {
    const auto tokenizer =
        load_tokenizer(cases_directory() / one.member("file").text("file"), one.member("end").text("end"));
    const auto encoder = tokenizer->encoder();
    std::vector<uint32_t> ids;
    size_t from = 0;
    for (size_t at = 1; at <= document.size(); ++at) {
      if (at < document.size() && !tokenizer->may_cut(document, at)) continue;
      encoder->encode(std::string_view(document).substr(from, at - from), from == 0, ids);
      cut_somewhere += at < document.size();
      from = at;
    }
    EXPECT_EQ(ids, tokenizer->encode(document)) << one.member("file").text("file");
  }
  EXPECT_GT(cut_somewhere, 100);
}

}  // namespace
}  // namespace capstan
