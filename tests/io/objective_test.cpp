// label: plan
// Objectives beside causal: masked (tokens, words, spans, static, dynamic), span corruption, prefix.
#include "io/corpus/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "core/error.h"
#include "io/corpus/objective_masked.h"
#include "io/corpus/objective_prefix.h"
#include "io/corpus/objective_spans.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

constexpr uint32_t kEnd = 256, kMask = 300;

/// Text of words over a byte tokenizer, with documents that end, as windows of a length.
struct Text {
  Text(int64_t samples, int64_t length, unsigned seed = 1) : count(samples), window(length) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < samples * length; ++i) {
      const unsigned draw = random() % 97;
      tokens.push_back(draw == 0 ? kEnd : draw < 17 ? ' ' : 'a' + draw % 26);
    }
    marks.resize(tokens.size());
    for (int64_t s = 0; s < samples; ++s)
      keys.push_back({static_cast<uint64_t>(s), static_cast<uint64_t>(s) * 1000, 0});
    bytes.assign(257, 1);
    bytes[kEnd] = 0;
  }
  TokenWindows windows() const { return {tokens, marks, keys, count, window, kEnd, bytes}; }
  int64_t count, window;
  std::vector<uint32_t> tokens;
  std::vector<uint8_t> marks;
  std::vector<SampleKey> keys;
  std::vector<uint16_t> bytes;
};

struct Fields {
  Fields(const Objective& objective, int64_t samples, int64_t context) {
    for (const FieldSpec& field : objective.fields(context)) {
      const auto size = static_cast<size_t>(samples * field.elements);
      if (field.dtype == DType::f32)
        out.set(field.name, (weights = std::vector<float>(size)).data());
      else
        out.set(field.name, (ints[std::string(field.name)] = std::vector<int32_t>(size)).data());
    }
  }
  const std::vector<int32_t>& operator[](const char* name) { return ints.at(name); }
  std::map<std::string, std::vector<int32_t>> ints;
  std::vector<float> weights;
  SampleFields out;
};

Fields masked(const Text& text, const MaskOptions& options, uint64_t seed = 5, SampleTally* tally = nullptr) {
  const MaskedObjective objective(ByteTokenizer(), seed, options, kMask, true);
  Fields fields(objective, text.count, text.window);
  const SampleTally got = objective.write(text.windows(), fields.out);
  if (tally) *tally = got;
  return fields;
}

TEST(Masked, FifteenPercentOfTheTextAndEightyTenTen) {
  const Text text(200, 256);
  SampleTally tally;
  Fields fields = masked(text, {}, 5, &tally);
  double chosen = 0, mask = 0, kept = 0, candidates = 0;
  for (size_t i = 0; i < text.tokens.size(); ++i) {
    candidates += text.tokens[i] != kEnd;
    ASSERT_EQ(fields["targets"][i], static_cast<int32_t>(text.tokens[i]));
    if (fields.weights[i] == 0) {
      ASSERT_EQ(fields["tokens"][i], fields["targets"][i]);
      continue;
    }
    ASSERT_NE(text.tokens[i], kEnd);
    ++chosen;
    mask += fields["tokens"][i] == static_cast<int32_t>(kMask);
    kept += fields["tokens"][i] == fields["targets"][i];
  }
  EXPECT_EQ(tally.weight, chosen);
  EXPECT_EQ(tally.text_bytes, chosen);
  EXPECT_NEAR(chosen / candidates, 0.15, 0.002);
  EXPECT_NEAR(mask / chosen, 0.8, 0.02);
  EXPECT_NEAR(kept / chosen, 0.1, 0.02);
}

TEST(Masked, DynamicChangesWithTheCursorAndStaticWithThePlaceAlone) {
  Text first(4, 128), again = first, shifted = first;
  for (SampleKey& key : again.keys) key.cursor += 1000, key.epoch = 1;
  for (SampleKey& key : shifted.keys) key.place += 1;
  EXPECT_EQ(masked(first, {})["tokens"], masked(first, {})["tokens"]);
  EXPECT_NE(masked(first, {})["tokens"], masked(again, {})["tokens"]);
  EXPECT_NE(masked(first, {})["tokens"], masked(first, {}, 6)["tokens"]);
  const MaskOptions fixed{.fixed = true}, copies{.fixed = true, .copies = 2};
  EXPECT_EQ(masked(first, fixed)["tokens"], masked(again, fixed)["tokens"]);
  EXPECT_NE(masked(first, fixed)["tokens"], masked(shifted, fixed)["tokens"]);
  EXPECT_NE(masked(first, copies)["tokens"], masked(again, copies)["tokens"]);
  for (SampleKey& key : again.keys) key.epoch = 2;
  EXPECT_EQ(masked(first, copies)["tokens"], masked(again, copies)["tokens"]);
}

TEST(Masked, IsTheSameInWhateverBatch) {
  const Text all(8, 64);
  Fields whole = masked(all, {.units = MaskUnits::span});
  for (size_t s = 0; s < 8; ++s) {
    Text one(1, 64);
    one.tokens.assign(all.tokens.begin() + static_cast<long>(s) * 64,
                      all.tokens.begin() + static_cast<long>(s + 1) * 64);
    one.keys = {all.keys[s]};
    Fields alone = masked(one, {.units = MaskUnits::span});
    EXPECT_TRUE(std::equal(alone["tokens"].begin(), alone["tokens"].end(),
                           whole["tokens"].begin() + static_cast<long>(s) * 64));
  }
}

bool begins_word(const Text& text, size_t i) {
  return i % static_cast<size_t>(text.window) == 0 || text.tokens[i] == ' ' || text.tokens[i - 1] == kEnd;
}

TEST(Masked, WholeWordsAreMaskedWhole) {
  const Text text(100, 256);
  Fields fields = masked(text, {.units = MaskUnits::word});
  double chosen = 0;
  for (size_t i = 1; i < text.tokens.size(); ++i) {
    chosen += fields.weights[i];
    if (text.tokens[i] == kEnd || begins_word(text, i)) continue;
    ASSERT_EQ(fields.weights[i], fields.weights[i - 1]) << i;
    if (fields.weights[i] == 0) continue;
    const bool mask = fields["tokens"][i] == static_cast<int32_t>(kMask);
    ASSERT_EQ(mask, fields["tokens"][i - 1] == static_cast<int32_t>(kMask)) << "one fate for a word";
  }
  EXPECT_NEAR(chosen / static_cast<double>(text.tokens.size()), 0.15, 0.01);
}

TEST(Masked, SpansAreGeometricInWords) {
  const Text text(400, 512);
  const MaskedObjective objective(ByteTokenizer(), 5, {.masked = 1, .random = 0, .units = MaskUnits::span}, kMask,
                                  true);
  Fields fields(objective, text.count, text.window);
  objective.write(text.windows(), fields.out);
  std::vector<double> lengths(12);
  double spans = 0, words = 0;
  for (size_t i = 0; i < text.tokens.size(); ++i) {
    const bool start = fields.weights[i] != 0 && (i % 512 == 0 || fields.weights[i - 1] == 0);
    if (!start) continue;
    size_t here = 0;
    for (size_t t = i; t < text.tokens.size() && fields.weights[t] != 0 && (t == i || t % 512 != 0); ++t)
      here += t == i || begins_word(text, t);
    ++spans;
    words += static_cast<double>(here);
    if (here < lengths.size()) ++lengths[here];
  }
  // Of an uncut geometric length 0.2, 0.16, ... would be 1, 2, ... words, 3.8 in the mean; ends of documents (every 97
  // bytes here) and of samples, the share, and spans that meet make some of them shorter.
  EXPECT_NEAR(words / spans, 3.4, 0.6);
  EXPECT_NEAR(lengths[1] / spans, 0.25, 0.06);
  EXPECT_GT(lengths[1], lengths[2]);
  EXPECT_GT(lengths[2], lengths[4]);
  EXPECT_GT(lengths[8], 0);
}

TEST(Masked, BlankAndSeamsAreRespected) {
  Text text(20, 100);
  for (size_t i = 0; i < text.tokens.size(); ++i)
    if (i % 100 >= 40 && i % 100 < 60) text.tokens[i] = kEnd, text.marks[i] = kBlank;
  for (size_t i = 80; i < text.tokens.size(); i += 100) text.marks[i] |= kSeam;
  SampleTally tally;
  Fields fields = masked(text, {.rate = 0.5, .units = MaskUnits::span}, 5, &tally);
  EXPECT_EQ(tally.blank, 400u);
  for (size_t i = 0; i < text.tokens.size(); ++i)
    if (text.marks[i] & kBlank) {
      ASSERT_EQ(fields.weights[i], 0.0f);
    }
  EXPECT_EQ(fields["positions"][80], 0);
  EXPECT_NE(fields["document_ids"][80], fields["document_ids"][79]);
}

TEST(Masked, ATokenizerWithoutAMaskIsRefused) {
  const support::Outcome outcome = support::outcome_of([] { MaskedObjective(ByteTokenizer(), 1, {}); });
  EXPECT_EQ(outcome.code, ExitCode::config);
  EXPECT_TRUE(outcome.says("[MASK]")) << outcome.message;
}

TEST(Spans, LengthsAreThoseOfT5) {
  const SpanLengths t5 = span_lengths(512, 0.15, 3.0);
  EXPECT_EQ(t5.text, 568);
  EXPECT_EQ(t5.answer, 114);
  EXPECT_EQ(t5.noise, 85);
  EXPECT_EQ(t5.spans, 28);
  for (int64_t inputs = 16; inputs < 600; ++inputs) {
    const SpanLengths found = span_lengths(inputs, 0.15, 3.0);
    EXPECT_EQ(found.text - found.noise + found.spans + 1, inputs);
  }
}

std::vector<uint32_t> sentinels(size_t count) {
  std::vector<uint32_t> out(count);
  std::iota(out.begin(), out.end(), 1000u);
  return out;
}

TEST(Spans, InputAndTargetsPutTogetherAreTheText) {
  const SpanObjective objective(sentinels(40), 3, 0.15, 3.0);
  const int64_t raw = objective.window(512);
  const Text text(50, raw);
  Fields fields(objective, text.count, 512);
  const SampleTally tally = objective.write(text.windows(), fields.out);
  EXPECT_EQ(tally.weight, 50.0 * 114);
  std::vector<double> noise_at(static_cast<size_t>(raw));
  std::set<size_t> first_spans;
  for (size_t s = 0; s < 50; ++s) {
    const int32_t *in = fields["tokens"].data() + s * 512, *answer = fields["targets"].data() + s * 114;
    const int32_t* shifted = fields["decoder_tokens"].data() + s * 114;
    std::vector<uint32_t> whole;
    size_t at = 0;
    for (size_t i = 0; i + 1 < 512; ++i) {
      if (in[i] < 1000) {
        whole.push_back(static_cast<uint32_t>(in[i]));
        continue;
      }
      EXPECT_EQ(in[i], answer[at]);
      if (in[i] == 1000) first_spans.insert(whole.size());
      for (++at; at < 113 && answer[at] < 1000; ++at) {
        noise_at[whole.size()] += 1;
        whole.push_back(static_cast<uint32_t>(answer[at]));
      }
    }
    EXPECT_EQ(in[511], static_cast<int32_t>(kEnd));
    EXPECT_EQ(answer[113], static_cast<int32_t>(kEnd));
    EXPECT_EQ(shifted[0], static_cast<int32_t>(kEnd));
    EXPECT_TRUE(std::equal(shifted + 1, shifted + 114, answer));
    EXPECT_TRUE(std::equal(whole.begin(), whole.end(), text.tokens.begin() + static_cast<long>(s) * raw));
    EXPECT_EQ(whole.size(), static_cast<size_t>(raw));
  }
  EXPECT_GT(first_spans.size(), 15u);  // at drawn places
  EXPECT_EQ(noise_at[0], 0);           // text comes first, noise last
  EXPECT_EQ(noise_at.back(), 50);
}

TEST(Spans, TooFewSentinelsAreRefused) {
  const SpanObjective objective(sentinels(10), 3, 0.15, 3.0);
  EXPECT_THROW(objective.fields(512), Error);
  EXPECT_THROW(SpanObjective(ByteTokenizer(), 1), Error);
}

TEST(Prefix, TheRestIsPredictedAndThePrefixIsSeen) {
  const PrefixObjective objective(4);
  const CausalObjective causal;
  const Text text(60, 129);
  Fields fields(objective, text.count, 128), plain(causal, text.count, 128);
  const SampleTally tally = objective.write(text.windows(), fields.out), all = causal.write(text.windows(), plain.out);
  double weight = 0, share = 0;
  for (size_t s = 0; s < 60; ++s)
    for (size_t t = 0; t < 128; ++t) {
      const size_t i = s * 128 + t;
      const auto end = static_cast<size_t>(fields["prefix_ends"][i]);
      const bool asked = plain.weights[i] != 0 && t + 1 >= end;
      ASSERT_EQ(fields.weights[i] != 0, asked);
      weight += asked;
      share += t < end;
      if (t > 0 && fields["document_ids"][i] == fields["document_ids"][i - 1]) {
        ASSERT_EQ(fields["prefix_ends"][i], fields["prefix_ends"][i - 1]);
      }
    }
  EXPECT_EQ(tally.weight, weight);
  EXPECT_LT(tally.weight, all.weight);
  EXPECT_NEAR(share / (60 * 128), 0.5, 0.08);
  EXPECT_EQ(fields["tokens"], plain["tokens"]);
}

TEST(Words, BeginAtSpacesOfByteTokens) {
  const std::vector<uint8_t> begins = word_beginnings(ByteTokenizer());
  EXPECT_TRUE(begins[' '] && begins['\n'] && begins[kEnd]);
  EXPECT_FALSE(begins['a'] || begins['.']);
}

}  // namespace
}  // namespace capstan
