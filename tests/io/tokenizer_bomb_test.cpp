// label: cpu
// Texts that are made to be slow. Work must grow with the length: twice the text may take at most four times the
// processor time (quadratic work on these lengths would not end in the test's time at all).
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <random>

#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/tokenizer.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

fs::path golden(const char* name) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  return fs::path(source != nullptr ? source : ".") / "tests/io/golden/tokenizers" / name;
}

std::string repeated(std::string_view what, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += what;
  return text;
}

std::string random_bytes(size_t bytes) {
  std::mt19937 random(9);
  std::string text(bytes, '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

/// Marks whose order alternates, which sorting by insertion moves past all others.
std::vector<std::string> bombs(size_t bytes) {
  return {repeated("a", bytes),
          repeated("\u0301", bytes),
          "a" + repeated("\u0301\u0323", bytes),
          "a" + repeated("\u0344\u0323", bytes),
          random_bytes(bytes),
          repeated(" ", bytes),
          repeated(" ", bytes) + "a",
          repeated("\n", bytes),
          repeated("ab", bytes),
          repeated("'", bytes),
          repeated("\u4f60", bytes),
          repeated("<|endoftex", bytes),
          repeated("1", bytes)};
}

double seconds_of(const std::function<void()>& action) {
  const std::clock_t began = std::clock();
  action();
  return static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
}

TEST(TokenizerBombs, TimeGrowsWithTheLength) {
  constexpr size_t kBytes = 60000;
  const std::vector<std::string> once = bombs(kBytes), twice = bombs(2 * kBytes);
  for (const char* name : {"gpt2.json", "qwen.json", "added.json", "llama.json", "unigram_metaspace.json", "bert.json",
                           "sp_bpe.model", "sp_unigram.model", "r50k_base.tiktoken"}) {
    const auto tokenizer = load_tokenizer(golden(name));
    const auto encoder = tokenizer->encoder({true});
    std::vector<uint32_t> ids;
    for (size_t i = 0; i < once.size(); ++i) {
      const double first = seconds_of([&] { encoder->encode(once[i], true, ids); });
      const double second = seconds_of([&] { encoder->encode(twice[i], true, ids); });
      EXPECT_LT(second, 4 * first + 0.2) << name << ", bomb " << i;
      ids.clear();
    }
  }
}

TEST(TokenizerBombs, TenMegabytes) {
  const auto tokenizer = load_tokenizer(golden("gpt2.json"));
  for (const std::string& bomb : {repeated("a", 10'000'000), repeated("\u0301", 10'000'000), random_bytes(2'000'000)})
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bomb)), bomb);
}

TEST(TokenizerBombs, NormalizersGiveTheSameForLongRunsOfMarks) {
  // The canonical order of marks is that of their classes: all of class 220 before all of class 230.
  for (const size_t pairs : {10u, 40u, 5000u}) {
    std::string text = "a", wanted = "a";
    for (size_t i = 0; i < pairs; ++i) text += "\u0301\u0323";
    for (size_t i = 0; i < pairs; ++i) wanted += "\u0323";
    for (size_t i = 0; i < pairs; ++i) wanted += "\u0301";
    Normalizer normalizer({UnicodeForm{UnicodeForm::Form::nfd}}, "test");
    bool front = false;
    EXPECT_EQ(normalizer.run(text, true, front), wanted) << pairs;
  }
}

TEST(TokenizerBombs, TextThatIsNormalizedIsNotCopied) {
  Normalizer normalizer({UnicodeForm{UnicodeForm::Form::nfc}, Lowercase{}, StripSpace{}}, "test");
  bool front = false;
  for (const std::string text : {"plain ascii", "caf\u00e9 \u4f60\u597d", "bad \xFF bytes"})
    EXPECT_EQ(normalizer.run(text, true, front).data(), text.data()) << text;
  EXPECT_EQ(normalizer.run("cafe\u0301", true, front), "caf\u00e9");
  EXPECT_EQ(normalizer.run("e\xFF\u0301", true, front), "e\xFF\u0301") << "a mark joined over a bad byte";
}

TEST(TokenizerBombs, ExpressionsOfTokenizersAreLinear) {
  const std::vector<std::string> once = bombs(60000), twice = bombs(120000);
  for (
      const char* expression :
      {R"('s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", R"( ?[^(\s|[.,!?])]+)",
       R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}) {
    RegularExpression compiled(expression, "test");
    std::vector<TextRange> matches;
    for (size_t i = 0; i < once.size(); ++i) {
      const double first = seconds_of([&] { compiled.find_all(once[i], matches); });
      const double second = seconds_of([&] { compiled.find_all(twice[i], matches); });
      EXPECT_LT(second, 4 * first + 0.2) << expression << ", bomb " << i;
      matches.clear();
    }
  }
}

}  // namespace
}  // namespace capstan
