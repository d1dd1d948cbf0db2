// label: cpu
// Broken UTF-8 everywhere, text that streams out of tokens, and Oniguruma's expressions on PCRE2.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "io/tokenizer/base64.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/splitter.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/utf8.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

fs::path golden(const char* name) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  return fs::path(source != nullptr ? source : ".") / "tests/io/golden/tokenizers" / name;
}

std::string repaired(std::string_view text, size_t chunk) {
  std::string out;
  Utf8Repair repair;
  for (size_t at = 0; at < text.size(); at += chunk) repair.push(text.substr(at, chunk), out);
  repair.finish(out);
  return out;
}

TEST(Utf8, BrokenTextIsMendedTheSameInAnyChunks) {
  const std::pair<std::string, std::string> cases[] = {
      {"a\xC3\xA9z", "a\xC3\xA9z"},
      {"\xC3", "\uFFFD"},
      {"\xE2\x82", "\uFFFD"},
      {"\xE2\x82z", "\uFFFDz"},
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
      {"\xF0\x9F\x98"
       "a",
       "\uFFFD"
       "a"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // a surrogate
      {"\xC0\x80", "\uFFFD\uFFFD"},                      // overlong
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // beyond U+10FFFF
      {"\x80\xFF", "\uFFFD\uFFFD"},
      {"\xE0\xA0\xE2\x82\xAC", "\uFFFD\u20AC"}};
  for (const auto& [broken, wanted] : cases)
    for (size_t chunk = 1; chunk <= 5; ++chunk) EXPECT_EQ(repaired(broken, chunk), wanted) << chunk;
}

TEST(Utf8, EveryCharacterGoesThere) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Char back = utf8_at(text, 0);
    ASSERT_TRUE(back.good && back.value == c && back.size == text.size()) << static_cast<uint32_t>(c);
    ASSERT_EQ(incomplete_utf8_tail(text), 0u);
    for (size_t cut = 1; cut < text.size(); ++cut)
      ASSERT_EQ(incomplete_utf8_tail(std::string_view(text).substr(0, cut)), cut);
  }
}

TEST(Utf8, TablesOfBytesAndBase64Invert) {
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_EQ(from_byte_symbols(to_byte_symbols(bytes)), bytes);
    EXPECT_EQ(first_bad_utf8(to_byte_symbols(bytes)), std::string::npos);
    EXPECT_EQ(from_base64(to_base64(bytes)), bytes);
  }
  EXPECT_EQ(to_byte_symbols("a b\n"), "a\u0120b\u010A");
  EXPECT_EQ(from_byte_symbols("\u2581"), std::nullopt);
  EXPECT_EQ(from_base64("YQ"), "a");
  for (const char* bad : {"Y", "Y!==", "YQ==YQ=="}) EXPECT_EQ(from_base64(bad), std::nullopt) << bad;
}

TEST(TokenDecoder, StreamsWhatIsCertainAndNothingElse) {
  std::mt19937 random(5);
  for (const char* name : {"gpt2.json", "llama.json", "unigram_metaspace.json", "bert.json", "sp_bpe.model"}) {
    const auto tokenizer = load_tokenizer(golden(name));
    for (int round = 0; round < 60; ++round) {
      std::vector<uint32_t> ids(random() % 40);
      for (uint32_t& id : ids) id = random() % tokenizer->vocabulary();
      const std::string whole = tokenizer->decode(ids);
      const auto decoder = tokenizer->decoder();
      std::string text;
      for (const uint32_t id : ids) {
        decoder->push(id, text);
        ASSERT_TRUE(whole.starts_with(text)) << name;
        const size_t tail = incomplete_utf8_tail(text);
        ASSERT_FALSE(tail > 0 && utf8_at(whole, text.size() - tail).good) << name << ": half a character came out";
      }
      decoder->finish(text);
      EXPECT_EQ(text, whole) << name;
    }
    EXPECT_EQ(outcome_of([&] { tokenizer->decode(std::vector<uint32_t>{tokenizer->vocabulary()}); }).code,
              ExitCode::bad_data);
  }
}

TEST(TokenDecoder, BytesOfACharacterAreHeldUntilItIsWhole) {
  const auto tokenizer = load_tokenizer(golden("gpt2.json"));
  const std::string text = "a\xF0\x9F\x91\x8D\xF0\x9F b";
  const std::vector<uint32_t> ids = tokenizer->encode(text);
  const auto decoder = tokenizer->decoder();
  std::string out;
  std::vector<std::string> steps;
  for (const uint32_t id : ids) {
    decoder->push(id, out);
    steps.push_back(out);
  }
  decoder->finish(out);
  EXPECT_EQ(out, text);
  for (const std::string& step : steps)
    EXPECT_TRUE(step == "a" || step.starts_with("a\xF0\x9F\x91\x8D")) << repaired(step, 9);
}

TEST(TokenDecoder, AnyBytesSurviveAByteLevelTokenizerAndAByteFallback) {
  std::mt19937 random(6);
  for (const char* name : {"gpt2.json", "r50k_base.tiktoken", "llama.json"}) {
    const auto tokenizer = load_tokenizer(golden(name));
    for (int round = 0; round < 100; ++round) {
      std::string text(random() % 60, '\0');
      for (char& byte : text) byte = static_cast<char>(round % 2 == 0 ? random() : "a \xE4\xBD\xA0\xFF"[random() % 7]);
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << name;
      uint64_t size = 0;
      for (const uint32_t id : tokenizer->encode(text)) size += tokenizer->text_bytes(id);
      EXPECT_EQ(size, text.size() + (std::string_view(name) == "llama.json" && !text.empty() ? 1 : 0)) << name;
    }
  }
}

using Ranges = std::vector<TextRange>;

Ranges found(std::string_view expression, std::string_view text) {
  Ranges matches;
  RegularExpression(expression, "test").find_all(text, matches);
  return matches;
}

TEST(RegularExpression, MeansWhatRubyMeans) {
  EXPECT_EQ(found("^a", "ab\nac"), (Ranges{{0, 1}, {3, 4}}));
  EXPECT_EQ(found("b$", "ab\nb"), (Ranges{{1, 2}, {3, 4}}));
  EXPECT_EQ(found(R"(\p{N}{1,3}+)", "1234567"), (Ranges{{0, 7}}));  // not possessive: repeated
  EXPECT_EQ(found(R"(\p{N}{1,3})", "1234567"), (Ranges{{0, 3}, {3, 6}, {6, 7}}));
  EXPECT_EQ(found(R"(a{,2})", "aaa"), (Ranges{{0, 2}, {2, 3}}));
  EXPECT_EQ(found(R"(\h+)", "xyzab 09"), (Ranges{{3, 5}, {6, 8}}));
  EXPECT_EQ(found("[^(\\s|[.,])]+", "ab (c.d"), (Ranges{{0, 2}, {4, 5}, {6, 7}}));
  EXPECT_EQ(found("(?m:.)", "a\n"), (Ranges{{0, 1}, {1, 2}}));
  EXPECT_EQ(found(R"(\s+)", "a\u180E b"), (Ranges{{4, 5}}));
  EXPECT_EQ(found(R"(\w+)", "\u00BD\u0301\u24B6-"), (Ranges{{0, 7}}));
  EXPECT_EQ(found("(?=[A-Z])", "aBC"), (Ranges{{1, 1}, {2, 2}}));
  EXPECT_EQ(found("a*", "baac"), (Ranges{{0, 0}, {1, 3}, {4, 4}}));
  EXPECT_EQ(found("\\u4f60", "\u4f60"), (Ranges{{0, 3}}));
}

TEST(RegularExpression, BadBytesMatchAsControlCharacters) {
  EXPECT_EQ(found(R"([^\s\p{L}\p{N}]+)", "a\xFF\xE2\x82z"), (Ranges{{1, 4}}));
  EXPECT_EQ(found(R"(\p{L}+)", "\xC3\xA9\xC3"), (Ranges{{0, 2}}));
}

TEST(RegularExpression, LimitsHold) {
  EXPECT_EQ(outcome_of([] { found("(", "a"); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([] { found(std::string(20000, 'a'), "a"); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([] { found(std::string(200, '(') + std::string(200, ')'), "a"); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([] { found("(?:(?:a{1000}){1000}){1000}", "a"); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([] { found("(*LIMIT_MATCH=1)a", "a"); }).code, ExitCode::bad_data);
  for (const char* bad : {"[a&&b]", "a{3}+", "[a[^b]]", "[a", "\\"})
    EXPECT_EQ(outcome_of([&] { found(bad, "a"); }).code, ExitCode::bad_data) << bad;
  const Outcome costly = outcome_of([] { found("(?:a|aa)+$", std::string(10000, 'a') + "b"); });
  EXPECT_EQ(costly.code, ExitCode::bad_data) << costly.message;
  EXPECT_TRUE(costly.says("costly") && costly.says("test")) << costly.message;
}

TEST(RegularExpression, SplitterEndsCoverTheText) {
  const auto splitter = regex_splitter(R"(\d+)", "test");
  std::vector<uint32_t> ends;
  splitter->split("ab12c3", ends);
  EXPECT_EQ(ends, (std::vector<uint32_t>{2, 4, 5, 6}));
  ends.clear();
  splitter->split("", ends);
  EXPECT_TRUE(ends.empty());
}

}  // namespace
}  // namespace capstan
