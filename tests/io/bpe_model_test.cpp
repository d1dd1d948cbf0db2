// label: cpu
// The encoder follows the definition of BPE: against a plain one on random vocabularies, with every option, on long
// words and bombs; and it refuses vocabularies that make no sense.

#include "io/tokenizer/bpe_model.h"

#include <gtest/gtest.h>

#include <ctime>
#include <random>

#include "core/error.h"
#include "io/tokenizer/bpe_trainer.h"
#include "tests/io/bpe_testing.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using testing_bpe::encode_plainly;
using testing_bpe::Tokens;

BpeSpec trained(uint32_t vocabulary, const std::string& text, const char* expression = "") {
  BpeTrainingOptions options;
  options.vocabulary = vocabulary;
  options.least_count = 1;
  options.threads = 1;
  options.expression = expression;
  BpeTrainer trainer(options);
  trainer.add(text);
  return trainer.train();
}

std::string random_letters(std::mt19937& random, size_t size, std::string_view letters) {
  std::string text;
  while (text.size() < size) text += letters[random() % letters.size()];
  return text;
}

Tokens encoded(WordEncoder& encoder, std::string_view word) {
  Tokens tokens;
  encoder.encode(word, tokens);
  return tokens;
}

TEST(BpeModel, EqualsAPlainEncoder) {
  std::mt19937 random(1);
  for (const char* letters : {"ab", "aaab", "abcdefgh ", "\xe4\xb8\xad\xe6\x96\x87 "}) {
    std::string text;
    for (int i = 0; i < 60; ++i) text += random_letters(random, random() % 40, letters) + "\n";
    const BpeSpec spec = trained(256 + 60, text, "[^\\n]+|\\n");
    const auto model = make_bpe_model(spec, "test");
    const auto encoder = model->encoder();
    for (int i = 0; i < 300; ++i) {
      std::string word = random_letters(random, 1 + random() % (i % 10 == 0 ? 300 : 20), letters);
      if (i % 5 == 0) word[random() % word.size()] = static_cast<char>(random());
      const Tokens wanted = encode_plainly(spec, word);
      EXPECT_EQ(encoded(*encoder, word), wanted) << testing::PrintToString(word);
      EXPECT_EQ(encoded(*encoder, word), wanted) << "again, now from the cache";
    }
  }
}

/// Long words take the queue, and fall apart where no piece joins two bytes.
TEST(BpeModel, LongWordsEqualAPlainEncoder) {
  std::mt19937 random(2);
  const BpeSpec spec = trained(300, random_letters(random, 4000, "aab"), "[^\\n]+");
  const auto encoder = make_bpe_model(spec, "test")->encoder();
  for (const size_t size : {64, 65, 66, 200, 1000}) {
    const std::string word = random_letters(random, size, "aab"), mixed = random_letters(random, size, "aaaabbbbx");
    EXPECT_EQ(encoded(*encoder, word), encode_plainly(spec, word));
    EXPECT_EQ(encoded(*encoder, mixed), encode_plainly(spec, mixed));
  }
}

TEST(BpeModel, ManyWordsAtOnceEqualOneByOne) {
  std::mt19937 random(3);
  std::string text;
  std::vector<uint32_t> ends;
  for (int i = 0; i < 20'000; ++i) {
    text += random_letters(random, 1 + random() % (i % 50 == 0 ? 100 : 18), "abcde \xc3\xa9");
    ends.push_back(static_cast<uint32_t>(text.size()));
  }
  const BpeSpec spec = trained(500, text.substr(0, 20'000));
  const auto model = make_bpe_model(spec, "test");
  Tokens wanted, got;
  const auto one = model->encoder(), many = model->encoder();
  size_t begin = 0;
  for (const uint32_t end : ends) {
    one->encode(std::string_view(text).substr(begin, end - begin), wanted);
    begin = end;
  }
  many->encode_words(text, ends, got);
  EXPECT_EQ(got, wanted);
  std::string joined;
  for (const uint32_t token : got) joined += model->piece(token);
  EXPECT_EQ(joined, text);
}

BpeSpec characters(std::vector<std::string> pieces, const std::vector<std::pair<std::string, std::string>>& merges,
                   const std::string& prefix = "") {
  BpeSpec spec;
  spec.pieces = std::move(pieces);
  const auto ids = testing_bpe::ids_of(spec);
  for (const auto& [left, right] : merges)
    spec.merges.push_back({ids.at(left), ids.at(right), ids.at(left + right.substr(prefix.size()))});
  spec.continuing_prefix = prefix;
  return spec;
}

std::string pieces_of(const BpeSpec& spec, std::string_view word) {
  const auto model = make_bpe_model(spec, "test");
  std::string text;
  for (const uint32_t token : encoded(*model->encoder(), word)) {
    if (!text.empty()) text += '|';
    text += model->piece(token);
  }
  return text;
}

TEST(BpeModel, TheCacheTellsWordsWithZerosApart) {
  const auto encoder = make_bpe_model(trained(256, "x"), "test")->encoder();
  const std::string zeros(40, '\0');
  for (int round = 0; round < 2; ++round)
    for (size_t size = 1; size < zeros.size(); ++size) {
      EXPECT_EQ(encoded(*encoder, std::string_view(zeros).substr(0, size)).size(), size);
      Tokens tokens;
      const uint32_t ends[] = {static_cast<uint32_t>(size), 40};
      encoder->encode_words(zeros, ends, tokens);
      EXPECT_EQ(tokens.size(), 40u);
    }
}

TEST(BpeModel, LeastRankFirstThenLeftmost) {
  const auto spec = characters({"a", "b", "c", "ab", "bc", "aa", "abc"}, {{"b", "c"}, {"a", "b"}, {"a", "a"}});
  EXPECT_EQ(pieces_of(spec, "abc"), "a|bc");
  EXPECT_EQ(pieces_of(spec, "aaa"), "aa|a");
  EXPECT_EQ(pieces_of(spec, "abab"), "ab|ab");
}

TEST(BpeModel, LaterOfTwoMergesOfOnePairCounts) {
  const auto spec = characters({"a", "b", "c", "ab", "bc"}, {{"a", "b"}, {"b", "c"}, {"a", "b"}});
  EXPECT_EQ(pieces_of(spec, "abc"), "a|bc");
}

TEST(BpeModel, UnknownCharacters) {
  auto spec = characters({"<unk>", "a", "b", "ab"}, {{"a", "b"}});
  EXPECT_EQ(pieces_of(spec, "axxb"), "ab") << "left out before anything merges";
  spec.unknown = 0;
  EXPECT_EQ(pieces_of(spec, "axxb"), "a|<unk>|<unk>|b");
  spec.fuse_unknown = true;
  EXPECT_EQ(pieces_of(spec, "axxb\xc3\xa9"), "a|<unk>|b|<unk>");
}

TEST(BpeModel, AffixesOfWords) {
  auto spec = characters({"a", "##b", "##c", "ab", "##bc", "abc"}, {{"a", "##b"}, {"ab", "##c"}}, "##");
  EXPECT_EQ(pieces_of(spec, "abc"), "abc");
  BpeSpec clip = characters({"a", "b", "b</w>", "ab</w>", "ab"}, {{"a", "b</w>"}, {"a", "b"}});
  clip.end_suffix = "</w>";
  EXPECT_EQ(pieces_of(clip, "ab"), "ab</w>");
  EXPECT_EQ(pieces_of(clip, "abab"), "ab|ab</w>");
}

TEST(BpeModel, FallsBackToBytes) {
  auto spec = characters({"<unk>", "a", "<0xC3>", "<0xA9>", "<0xC4>"}, {});
  spec.unknown = 0;
  spec.byte_fallback = true;
  EXPECT_EQ(pieces_of(spec, "a\xc3\xa9"), "a|<0xC3>|<0xA9>");
  EXPECT_EQ(pieces_of(spec,
                      "a\xc4\xa9"
                      "a\xc5\xa9"
                      "a"),
            "a|<0xC4>|<0xA9>|a|<unk>|a");
  spec.fuse_unknown = true;
  EXPECT_EQ(pieces_of(spec,
                      "\xc5\xa9\xc5\xa8"
                      "a"),
            "<unk>|a");
  spec.fuse_unknown = false;
  EXPECT_EQ(pieces_of(spec,
                      "\xc5\xa9\xc5\xa8"
                      "a"),
            "<unk>|<unk>|a");
  EXPECT_EQ(pieces_of(spec,
                      "\xc5\xa9\xc3\xa9"
                      "a"),
            "<0xC3>|<0xA9>|<unk>|a")
      << "as Hugging Face has it";
  EXPECT_EQ(pieces_of(spec,
                      "\xff"
                      "a"),
            "<unk>|a")
      << "a byte that is no character";
}

TEST(BpeModel, IgnoringMergesTakesWholePieces) {
  auto spec = characters({"a", "b", "c", "ab", "abc"}, {{"a", "b"}});
  EXPECT_EQ(pieces_of(spec, "abc"), "ab|c");
  spec.ignore_merges = true;
  EXPECT_EQ(pieces_of(spec, "abc"), "abc");
  EXPECT_EQ(pieces_of(spec, "abca"), "ab|c|a");
}

TEST(BpeModel, RefusesNonsense) {
  const auto good = characters({"a", "b", "ab"}, {{"a", "b"}});
  EXPECT_NO_THROW(make_bpe_model(good, "file"));
  const auto refused = [](BpeSpec spec, const char* what) {
    const support::Outcome outcome = support::outcome_of([&] { make_bpe_model(std::move(spec), "file.json"); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << what;
    EXPECT_TRUE(outcome.says("file.json") && outcome.says(what)) << outcome.message;
  };
  BpeSpec bad = good;
  bad.merges[0].right = 7;
  refused(bad, "merge 0");
  bad = good;
  bad.merges[0].result = 0;
  refused(bad, "its result is");
  bad = good;
  bad.pieces[2] = "a";
  refused(bad, "both");
  bad = good;
  bad.unknown = 9;
  refused(bad, "unknown");
  bad = good;
  bad.pieces[1].clear();
  refused(bad, "not all of which exist");
}

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_for(WordEncoder& encoder, std::string_view word) {
  Tokens tokens;
  const double begin = processor_seconds();
  encoder.encode(word, tokens);
  EXPECT_FALSE(tokens.empty());
  return processor_seconds() - begin;
}

TEST(BpeModel, BombsTakeNearlyLinearTime) {
  constexpr size_t kSmall = 100'000;
  std::mt19937 random(4);
  std::string text;
  for (int i = 0; i < 4000; ++i) text += random_letters(random, 1 + random() % 12, "abcdefghij") + " ";
  text += std::string(5000, 'a') + " " + std::string(5000, ' ') + "x";
  for (int i = 0; i < 2000; ++i) text += "\xcc\x81";
  BpeSpec bytes = trained(600, text), letters = bytes;
  letters.byte_level = false;
  for (BpeSpec* spec : {&bytes, &letters}) {
    const auto encoder = make_bpe_model(*spec, "test")->encoder();
    for (const char* kind : {"a", " ", "\xcc\x81", "abcdefghij", ""}) {
      std::string small, large;
      const std::string_view part = kind;
      while (large.size() < 10 * kSmall)
        if (part.size() > 2)
          large += random_letters(random, 1000, part);
        else if (part.empty())
          large += static_cast<char>(random());
        else
          large += part;
      small = large.substr(0, kSmall);
      const double one = seconds_for(*encoder, small), ten = seconds_for(*encoder, large);
      EXPECT_LT(ten, 50 * one + 0.05) << testing::PrintToString(kind);
    }
  }
}

}  // namespace
}  // namespace capstan
