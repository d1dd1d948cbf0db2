#include "io/corpus/objective_masked.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace capstan {
namespace {

enum Purpose : uint64_t { kOrder, kLength, kFate, kReplacement };

uint32_t mask_token_of(const Tokenizer& tokenizer) {
  for (const char* name : {"[MASK]", "<mask>", "<|mask|>"})
    if (const auto token = tokenizer.find_token(name)) return *token;
  throw Error::make(
      ExitCode::config,
      "data.objective masked needs a mask token, and the tokenizer {} has none ([MASK] or <mask>); add one "
      "when the tokenizer is trained",
      tokenizer.name());
}

}  // namespace

/// One sample under way.
struct MaskedObjective::Window {
  const uint32_t* text;
  const uint8_t* marks;
  uint64_t length;
  Choices choices;
  int32_t* tokens;
  float* weights;
};

MaskedObjective::MaskedObjective(const Tokenizer& tokenizer, uint64_t seed, const MaskOptions& options, bool separate)
    : MaskedObjective(tokenizer, seed, options, mask_token_of(tokenizer), separate) {}

MaskedObjective::MaskedObjective(const Tokenizer& tokenizer, uint64_t seed, const MaskOptions& options,
                                 uint32_t mask_token, bool separate)
    : seed_(seed),
      options_(options),
      mask_token_(mask_token),
      separate_(separate),
      begins_word_(word_beginnings(tokenizer)) {
  const bool sound = options.rate > 0 && options.rate <= 1 && options.masked >= 0 && options.random >= 0 &&
                     options.masked + options.random <= 1 + 1e-12 && options.copies >= 1 && options.copies <= 1024 &&
                     options.span_probability > 0 && options.span_probability <= 1 && options.longest_span >= 1;
  if (!sound)
    throw Error::make(
        ExitCode::config, "masking: rate {}, masked {}, random {}, copies {}, span {} up to {} do not make sense",
        options.rate, options.masked, options.random, options.copies, options.span_probability, options.longest_span);
  is_text_.resize(tokenizer.vocabulary());
  for (uint32_t token = 0; token < tokenizer.vocabulary(); ++token) {
    is_text_[token] = tokenizer.text_bytes(token) > 0;
    if (is_text_[token]) ordinary_.push_back(token);
  }
}

/// The end of the unit that begins at `begin`: a token; a word; or a number of words, not beyond a document.
uint64_t MaskedObjective::unit_end(const Window& window, uint64_t begin) const {
  if (options_.units == MaskUnits::token) return begin + 1;
  uint64_t words = 1;
  if (options_.units == MaskUnits::span) {
    const double draw = 1.0 - window.choices.unit(kLength, begin);  // in (0, 1]
    const double more = options_.span_probability >= 1 ? 0 : std::log(draw) / std::log1p(-options_.span_probability);
    words = std::min<uint64_t>(1 + static_cast<uint64_t>(std::min(more, 1e6)), options_.longest_span);
  }
  uint64_t end = begin + 1;
  for (; end < window.length; ++end) {
    if (!is_text_[window.text[end]] || window.marks[end] != 0) break;
    if (begins_word_[window.text[end]] && --words == 0) break;
  }
  return end;
}

void MaskedObjective::replace(const Window& window, uint64_t begin, uint64_t end) const {
  const double fate = window.choices.unit(kFate, begin);
  for (uint64_t t = begin; t < end; ++t) {
    window.weights[t] = 1.0f;
    if (fate < options_.masked)
      window.tokens[t] = static_cast<int32_t>(mask_token_);
    else if (fate < options_.masked + options_.random)
      window.tokens[t] = static_cast<int32_t>(ordinary_[window.choices.below(kReplacement, t, ordinary_.size())]);
  }
}

/// Units in random order, until the share is reached; a word that would go beyond it is passed over.
uint64_t MaskedObjective::choose(const Window& window) const {
  uint64_t candidates = 0;
  for (uint64_t t = 0; t < window.length; ++t)
    candidates += is_text_[window.text[t]] && (window.marks[t] & kBlank) == 0;
  if (candidates == 0) return 0;
  const auto share = std::llround(options_.rate * static_cast<double>(candidates));
  const uint64_t budget = std::max<uint64_t>(1, static_cast<uint64_t>(share));
  const KeyedPermutation order = window.choices.order(kOrder, window.length);
  uint64_t chosen = 0;
  const auto begins = [&](uint64_t t) {  // a unit: what goes before may lie outside the sample
    if (!is_text_[window.text[t]] || (window.marks[t] & kBlank) != 0) return false;
    return options_.units == MaskUnits::token || t == 0 || begins_word_[window.text[t]] || window.marks[t] != 0 ||
           !is_text_[window.text[t - 1]];
  };
  const auto taken = [](float weight) { return weight != 0; };
  for (uint64_t i = 0; i < window.length && chosen < budget; ++i) {
    const uint64_t begin = order(i);
    if (!begins(begin)) continue;
    uint64_t end = unit_end(window, begin);
    if (options_.units == MaskUnits::span) {  // cut short by the share and by other spans: no length is preferred
      end = std::min(end, begin + budget - chosen);
      end = static_cast<uint64_t>(std::find_if(window.weights + begin, window.weights + end, taken) - window.weights);
    } else if (end - begin > budget - chosen || std::any_of(window.weights + begin, window.weights + end, taken)) {
      continue;
    }
    if (end == begin) continue;
    replace(window, begin, end);
    chosen += end - begin;
  }
  for (uint64_t i = 0; i < window.length && chosen == 0; ++i)  // all are longer than the share: then one of them
    if (const uint64_t begin = order(i); begins(begin)) {
      const uint64_t end = unit_end(window, begin);
      replace(window, begin, end);
      chosen = end - begin;
    }
  return chosen;
}

SampleTally MaskedObjective::write(const TokenWindows& windows, const SampleFields& out) const {
  auto* tokens = out.get<int32_t>("tokens");
  auto* targets = out.get<int32_t>("targets");
  auto* weights = out.get<float>("loss_weights");
  auto* positions = out.get<int32_t>("positions");
  auto* documents = out.get<int32_t>("document_ids");
  CAPSTAN_CHECK(tokens && weights, "a masked sample without tokens and loss_weights");
  SampleTally tally;
  for (int64_t sample = 0; sample < windows.count; ++sample) {
    const int64_t first = sample * windows.length;
    const SampleKey& key = windows.keys[static_cast<size_t>(sample)];
    // A static mask belongs to the place in the text, and to which of its copies this epoch reads.
    const uint64_t name = options_.fixed ? key.place * 1024 + key.epoch % options_.copies : ~key.cursor;
    const Window window{windows.tokens.data() + first,
                        windows.marks.data() + first,
                        static_cast<uint64_t>(windows.length),
                        Choices(seed_, name),
                        tokens + first,
                        weights + first};
    for (int64_t t = 0; t < windows.length; ++t) {
      tokens[first + t] = static_cast<int32_t>(window.text[t]);
      if (targets) targets[first + t] = static_cast<int32_t>(window.text[t]);
      weights[first + t] = 0.0f;
      tally.blank += (window.marks[t] & kBlank) != 0;
    }
    tally.weight += static_cast<double>(choose(window));
    for (int64_t t = 0; t < windows.length; ++t)
      if (weights[first + t] != 0) tally.text_bytes += windows.text_bytes[window.text[t]];
    write_documents(window.text, window.marks, windows.length, windows.end_of_document, separate_,
                    positions ? positions + first : nullptr, documents ? documents + first : nullptr);
  }
  return tally;
}

}  // namespace capstan
