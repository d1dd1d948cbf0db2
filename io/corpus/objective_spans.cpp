#include "io/corpus/objective_spans.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/corpus/objective_choice.h"

namespace capstan {
namespace {

enum SpanDraw : uint64_t { kNoiseCuts, kTextCuts };

SpanLengths lengths_of_text(int64_t text, double density, double mean) {
  SpanLengths lengths;
  lengths.text = text;
  lengths.noise = std::clamp<int64_t>(std::llround(static_cast<double>(text) * density), 1, text - 1);
  lengths.spans = std::max<int64_t>(std::llround(static_cast<double>(lengths.noise) / mean), 1);
  lengths.spans = std::min(lengths.spans, text - lengths.noise);
  lengths.answer = lengths.noise + lengths.spans + 1;
  return lengths;
}

int64_t inputs_of(const SpanLengths& lengths) { return lengths.text - lengths.noise + lengths.spans + 1; }

std::vector<uint32_t> sentinels_of(const Tokenizer& tokenizer) {
  std::vector<uint32_t> sentinels;
  while (const auto token = tokenizer.find_token(fmt::format("<extra_id_{}>", sentinels.size())))
    sentinels.push_back(*token);
  if (sentinels.empty())
    throw Error::make(ExitCode::config,
                      "data.objective span-corruption needs sentinels, and the tokenizer {} has no <extra_id_0>; add "
                      "them when the tokenizer is trained",
                      tokenizer.name());
  return sentinels;
}

}  // namespace

SpanLengths span_lengths(int64_t inputs, double density, double mean) {
  if (!(density > 0 && density < 1 && mean >= 1) || inputs < 3)
    throw Error::make(ExitCode::config, "span corruption: context {}, density {}, mean span {} do not make sense",
                      inputs, density, mean);
  int64_t low = 2, high = 2 * inputs + 2;  // the input grows with the text, but for a step now and then
  while (inputs_of(lengths_of_text(high, density, mean)) <= inputs) low = high, high *= 2;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (inputs_of(lengths_of_text(middle, density, mean)) <= inputs ? low : high) = middle;
  }
  const SpanLengths found = lengths_of_text(low, density, mean);
  if (inputs_of(found) != inputs)
    throw Error::make(ExitCode::config,
                      "span corruption: no text gives {} input tokens at density {} and mean span {}; the nearest "
                      "context is {}",
                      inputs, density, mean, inputs_of(found));
  return found;
}

SpanObjective::SpanObjective(const Tokenizer& tokenizer, uint64_t seed, double density, double mean)
    : SpanObjective(sentinels_of(tokenizer), seed, density, mean) {}

SpanObjective::SpanObjective(std::vector<uint32_t> sentinels, uint64_t seed, double density, double mean)
    : sentinels_(std::move(sentinels)), seed_(seed), density_(density), mean_(mean) {}

SpanLengths SpanObjective::lengths(int64_t context) const {
  const SpanLengths found = span_lengths(context, density_, mean_);
  if (found.spans > static_cast<int64_t>(sentinels_.size()))
    throw Error::make(
        ExitCode::config,
        "span corruption of context {} takes {} sentinels, the tokenizer has {}; choose a shorter context "
        "or a longer data.noise_span",
        context, found.spans, sentinels_.size());
  return found;
}

std::vector<FieldSpec> SpanObjective::fields(int64_t context) const {
  const int64_t answer = lengths(context).answer;
  return {{"tokens", DType::i32, context},
          {"targets", DType::i32, answer},
          {"decoder_tokens", DType::i32, answer},
          {"loss_weights", DType::f32, answer}};
}

SampleTally SpanObjective::write(const TokenWindows& windows, const SampleFields& out) const {
  auto* inputs = out.get<int32_t>("tokens");
  auto* targets = out.get<int32_t>("targets");
  auto* shifted = out.get<int32_t>("decoder_tokens");
  auto* weights = out.get<float>("loss_weights");
  CAPSTAN_CHECK(inputs && targets && weights, "a sample of span corruption without tokens, targets and loss_weights");
  const SpanLengths size = lengths_of_text(windows.length, density_, mean_);
  const auto end = static_cast<int32_t>(windows.end_of_document);
  SampleTally tally;
  for (int64_t sample = 0; sample < windows.count; ++sample) {
    const uint32_t* text = windows.tokens.data() + sample * windows.length;
    const uint8_t* marks = windows.marks.data() + sample * windows.length;
    const Choices choices(seed_, windows.keys[static_cast<size_t>(sample)].cursor);
    const auto spans = static_cast<uint64_t>(size.spans);
    // Part i of n things ends after thing j when j is among the spans - 1 first of an order of the n - 1 gaps.
    const auto order = [&](SpanDraw purpose, int64_t things) {
      return choices.order(purpose, static_cast<uint64_t>(std::max<int64_t>(things - 1, 1)));
    };
    const KeyedPermutation noise_cuts = order(kNoiseCuts, size.noise);
    const KeyedPermutation text_cuts = order(kTextCuts, size.text - size.noise);
    int32_t *input = inputs + sample * (inputs_of(size)), *target = targets + sample * size.answer;
    float* weight = weights + sample * size.answer;
    const auto answer = [&](uint32_t token, bool asked) {
      *target++ = static_cast<int32_t>(token);
      *weight++ = asked ? 1.0f : 0.0f;
      tally.weight += asked;
      if (asked && token < windows.text_bytes.size()) tally.text_bytes += windows.text_bytes[token];
    };
    int64_t kept = 0, gone = 0, at = 0;
    const auto take = [&](int64_t& taken, int64_t things, const KeyedPermutation& cuts, auto&& use) {
      do {
        use(at++);
        ++taken;
      } while (taken < things && cuts(static_cast<uint64_t>(taken - 1)) >= spans - 1);
    };
    for (uint64_t span = 0; span < spans; ++span) {
      take(kept, size.text - size.noise, text_cuts, [&](int64_t t) { *input++ = static_cast<int32_t>(text[t]); });
      const uint32_t sentinel = sentinels_[span];
      *input++ = static_cast<int32_t>(sentinel);
      answer(sentinel, true);
      take(gone, size.noise, noise_cuts, [&](int64_t t) { answer(text[t], (marks[t] & kBlank) == 0); });
    }
    *input = end;
    answer(windows.end_of_document, true);
    for (int64_t t = 0; t < windows.length; ++t) tally.blank += (marks[t] & kBlank) != 0;
    if (!shifted) continue;
    shifted[sample * size.answer] = end;
    std::copy_n(targets + sample * size.answer, size.answer - 1, shifted + sample * size.answer + 1);
  }
  return tally;
}

}  // namespace capstan
