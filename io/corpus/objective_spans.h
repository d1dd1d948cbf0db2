#pragma once
// Span corruption, as T5 does it: spans of the text are taken out, each is replaced by a sentinel, and the decoder says
// what was there. `context` is the length of the encoder's input; how much text gives exactly so many input tokens
// follows from it, and from that the length of the targets, so nothing is padded. Fields:
//   tokens          i32 [context]  text with a sentinel for each span, and the end of document at the end
//   targets         i32 [answer]   sentinel, its span, next sentinel, ..., end of document
//   decoder_tokens  i32 [answer]   targets moved right by one, after an end of document
//   loss_weights    f32 [answer]   0 for what is blank
// Noise: round(density x text) tokens in round(noise / mean) spans; noise and text between are cut into so many parts
// at evenly drawn places, text first. Documents in a sample are not kept apart.

#include "io/corpus/objective.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

/// What follows from the length of the encoder's input.
struct SpanLengths {
  int64_t text = 0;    ///< raw tokens
  int64_t noise = 0;   ///< of them taken out
  int64_t spans = 0;   ///< in so many spans
  int64_t answer = 0;  ///< tokens of the targets
};

/// The longest text that gives at most `inputs` input tokens. Error config when nothing fits.
SpanLengths span_lengths(int64_t inputs, double density, double mean);

class SpanObjective final : public Objective {
 public:
  /// Sentinels are <extra_id_0>, <extra_id_1>, ... of the tokenizer.
  SpanObjective(const Tokenizer& tokenizer, uint64_t seed, double density = 0.15, double mean = 3.0);
  SpanObjective(std::vector<uint32_t> sentinels, uint64_t seed, double density, double mean);

  std::vector<FieldSpec> fields(int64_t context) const override;
  int64_t stride(int64_t context) const override { return lengths(context).text; }
  int64_t window(int64_t context) const override { return lengths(context).text; }
  /// All fields but decoder_tokens must be wanted.
  SampleTally write(const TokenWindows& windows, const SampleFields& out) const override;

 private:
  SpanLengths lengths(int64_t context) const;

  std::vector<uint32_t> sentinels_;
  uint64_t seed_;
  double density_, mean_;
};

}  // namespace capstan
