#pragma once
// Masked language model: some of the tokens are asked for, given all the others on both sides. The fields of one
// sequence (objective.h), where
//   tokens         the text with the chosen tokens replaced: 80% by [MASK], 10% by a random token, 10% left as they are
//   targets        the text itself
//   loss_weights   1 where a token was chosen, else 0
// Units that are chosen whole: tokens, words (all pieces of a word), or spans (SpanBERT: words from a word's beginning
// on, their number geometric with p = 0.2, at most 10; one fate for the whole span). Of each sample the same share of
// its text is chosen, rounded, at least one token. Dynamic masks differ whenever the text comes again; static ones are
// the same in epochs e and e + copies, as if the text had been masked `copies` times beforehand.
// Ends of documents, seams, special and blank tokens are never chosen.

#include <memory>

#include "io/corpus/objective.h"
#include "io/corpus/objective_choice.h"

namespace capstan {

enum class MaskUnits { token, word, span };

struct MaskOptions {
  double rate = 0.15;
  double masked = 0.8, random = 0.1;  ///< of what is chosen; the rest stays
  MaskUnits units = MaskUnits::token;
  bool fixed = false;  ///< static
  uint64_t copies = 1;
  double span_probability = 0.2;  ///< of the geometric distribution
  uint64_t longest_span = 10;     ///< words
};

class MaskedObjective final : public Objective {
 public:
  /// Error config: the tokenizer has no mask token ([MASK], <mask>), or options out of range.
  MaskedObjective(const Tokenizer& tokenizer, uint64_t seed, const MaskOptions& options, bool separate = true);
  /// With a mask token of one's own, which may lie beyond the vocabulary.
  MaskedObjective(const Tokenizer& tokenizer, uint64_t seed, const MaskOptions& options, uint32_t mask_token,
                  bool separate);

  std::vector<FieldSpec> fields(int64_t context) const override { return sequence_fields(context); }
  int64_t window(int64_t context) const override { return context; }
  /// tokens and loss_weights must be wanted.
  SampleTally write(const TokenWindows& windows, const SampleFields& out) const override;

 private:
  struct Window;
  uint64_t choose(const Window& window) const;
  uint64_t unit_end(const Window& window, uint64_t begin) const;
  void replace(const Window& window, uint64_t begin, uint64_t end) const;

  uint64_t seed_;
  MaskOptions options_;
  uint32_t mask_token_;
  bool separate_;
  std::vector<uint8_t> begins_word_;
  std::vector<uint32_t> ordinary_;  ///< tokens that stand for text: what random replacements are drawn from
  std::vector<uint8_t> is_text_;
};

}  // namespace capstan
