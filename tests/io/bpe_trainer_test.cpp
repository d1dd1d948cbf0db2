// label: cpu
// The trainer makes the merges that a plain one makes, whatever the threads and the order of texts.

#include "io/tokenizer/bpe_trainer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <random>

#include "core/error.h"
#include "io/tokenizer/splitter.h"
#include "tests/io/bpe_testing.h"

namespace capstan {
namespace {

using testing_bpe::train_plainly;

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

BpeTrainingOptions options_of(uint32_t vocabulary, uint64_t least_count = 1, size_t longest = 64, int threads = 1) {
  BpeTrainingOptions options;
  options.vocabulary = vocabulary;
  options.least_count = least_count;
  options.longest_piece = longest;
  options.threads = threads;
  return options;
}

BpeSpec trained(const BpeTrainingOptions& options, const std::vector<std::string>& texts) {
  BpeTrainer trainer(options);
  for (const std::string& text : texts) trainer.add(text);
  return trainer.train();
}

std::vector<std::array<uint32_t, 3>> merges_of(const BpeSpec& spec) {
  std::vector<std::array<uint32_t, 3>> merges;
  for (const auto& [left, right, result] : spec.merges) merges.push_back({left, right, result});
  return merges;
}

void expect_same(const BpeSpec& got, const BpeSpec& wanted) {
  EXPECT_EQ(got.pieces, wanted.pieces);
  EXPECT_EQ(merges_of(got), merges_of(wanted));
}

std::map<std::string, uint64_t> words_of(const std::vector<std::string>& texts) {
  std::map<std::string, uint64_t> words;
  const auto splitter = known_splitter(kGpt2);
  for (const std::string& text : texts) {
    std::vector<uint32_t> ends;
    splitter->split(text, ends);
    size_t begin = 0;
    for (const uint32_t end : ends) {
      ++words[text.substr(begin, end - begin)];
      begin = end;
    }
  }
  return words;
}

std::string random_prose(std::mt19937& random, size_t size) {
  static const char* words[] = {"the",           " quick", " brown",  " fox",     "'s",
                                " 1234",         "\n",     " banana", " bandana", " \xe4\xb8\xad\xe6\x96\x87",
                                " na\xc3\xafve", "!!!",    "====",    "  ",       " aaaaaaa"};
  std::string text;
  while (text.size() < size) {
    text += words[random() % std::size(words)];
    if (random() % 4 == 0) text += static_cast<char>('a' + random() % 26);
  }
  return text;
}

TEST(BpeTrainer, NumbersBytesAsGpt2Does) {
  const BpeSpec spec = trained(options_of(256), {"x"});
  ASSERT_EQ(spec.pieces.size(), 256u);
  EXPECT_EQ(spec.pieces[0], "!");
  EXPECT_EQ(spec.pieces[93], "~");
  EXPECT_EQ(spec.pieces[94], "\xa1");
  EXPECT_EQ(spec.pieces[187], "\xff");
  EXPECT_EQ(spec.pieces[188], std::string(1, '\0'));
  EXPECT_EQ(spec.pieces[220], " ");
  EXPECT_EQ(spec.pieces[255], "\xad");
  EXPECT_TRUE(spec.merges.empty());
}

TEST(BpeTrainer, MergesTheMostFrequentPairAndThenTheSmallest) {
  const BpeSpec spec = trained(options_of(260, 2), {"ab ab ab cd cd ba"});
  ASSERT_GE(spec.pieces.size(), 258u);
  EXPECT_EQ(spec.pieces[256], "ab");
  EXPECT_EQ(spec.pieces[257], "cd");  // 2 times, as " c" and " ab": 'c' has the smallest id on the left
}

TEST(BpeTrainer, EqualsAPlainTrainer) {
  std::mt19937 random(3);
  const std::vector<std::string> texts{random_prose(random, 700), random_prose(random, 200)};
  for (const auto& [least, longest] : {std::pair<uint64_t, size_t>{1, 64}, {2, 64}, {3, 5}, {1, 2}}) {
    const BpeSpec wanted = train_plainly(trained(options_of(256), {"x"}), words_of(texts), 340, least, longest);
    expect_same(trained(options_of(340, least, longest), texts), wanted);
  }
}

/// Few letters and no spaces make pairs of the same text, overlapping pairs and words that must be encoded again.
TEST(BpeTrainer, EqualsAPlainTrainerOnFewLetters) {
  const BpeSpec bytes = trained(options_of(256), {"x"});
  const auto holds = rc::check("same merges", [&] {
    const auto texts = *rc::gen::container<std::vector<std::string>>(
        rc::gen::container<std::string>(rc::gen::elementOf(std::string("aaab"))));
    const std::vector<std::string> kept = texts;
    if (std::all_of(kept.begin(), kept.end(), [](const std::string& text) { return text.empty(); })) return;
    const BpeSpec wanted = train_plainly(bytes, words_of(kept), 275, 1, 1000);
    const BpeSpec got = trained(options_of(275, 1, 1000), kept);
    RC_ASSERT(got.pieces == wanted.pieces);
    RC_ASSERT(merges_of(got) == merges_of(wanted));
  });
  EXPECT_TRUE(holds);
}

TEST(BpeTrainer, SameForAnyThreadsAndOrder) {
  std::mt19937 random(5);
  std::vector<std::string> texts;
  for (int i = 0; i < 20; ++i) texts.push_back(random_prose(random, 20'000));
  const BpeSpec wanted = trained(options_of(1000), texts);
  EXPECT_GT(wanted.pieces.size(), 400u);
  for (int threads = 2; threads <= 4; ++threads) {
    std::shuffle(texts.begin(), texts.end(), random);
    expect_same(trained(options_of(1000, 1, 64, threads), texts), wanted);
  }
}

TEST(BpeTrainer, CutsLongTextsWhereNothingChanges) {
  std::mt19937 random(7);
  std::string text;
  while (text.size() < 3'000'000) text += random_prose(random, 300) + (random() % 2 ? "\nx" : "x\nx");
  BpeTrainer whole(options_of(300)), parts(options_of(300));
  whole.add(text);
  const auto splitter = known_splitter(kGpt2);
  std::vector<uint32_t> ends;
  splitter->split(text, ends);
  std::map<std::string_view, int> words;
  size_t begin = 0;
  for (const uint32_t end : ends) {
    ++words[std::string_view(text).substr(begin, end - begin)];
    begin = end;
  }
  EXPECT_EQ(whole.distinct_words(), words.size());
}

TEST(BpeTrainer, TakesAnyExpressionAndReportsItsErrors) {
  BpeTrainingOptions options = options_of(258);
  options.expression = "[a-z]+|[^a-z]+";
  const BpeSpec spec = trained(options, {"abab  ab  ab"});
  EXPECT_EQ(spec.pieces[256], "ab");
  EXPECT_EQ(spec.pieces[257], "  ");
  options.expression = "(";
  EXPECT_THROW(BpeTrainer{options}, Error);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  EXPECT_THROW(BpeTrainer(options_of(255)), Error);
  EXPECT_THROW(BpeTrainer(options_of(1u << 25)), Error);
  BpeTrainer empty(options_of(300));
  empty.add("");
  EXPECT_THROW(empty.train(), Error);
}

TEST(BpeTrainer, StopsWhenThereAreNoMorePairs) {
  const BpeSpec spec = trained(options_of(5000), {"abc"});
  EXPECT_EQ(spec.pieces.size(), 258u);
  EXPECT_EQ(spec.pieces.back(), "abc");
}

TEST(BpeTrainer, TrainsOnBombs) {
  std::mt19937 random(11);
  std::string letters, bytes;
  for (int i = 0; i < 500'000; ++i) {
    letters += static_cast<char>('a' + random() % 26);
    bytes += static_cast<char>(random());
  }
  for (const std::string& bomb : {std::string(500'000, 'a'), std::string(500'000, ' '), letters, bytes}) {
    const BpeSpec spec = trained(options_of(400, 2), {bomb});
    EXPECT_GT(spec.pieces.size(), 256u);
  }
}

}  // namespace
}  // namespace capstan
