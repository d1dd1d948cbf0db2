#pragma once
// Trains a byte-level BPE on the inputs of a build before the build. On all of the text when that is at most
// `sample_bytes`; else on the beginning of each input, as much as is its share of the bytes of all inputs: a choice
// that depends on the inputs alone. Documents that are held out for validation are left out when the split is by
// document. The tokenizer is saved in the corpus; a build that was killed takes it from there.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/corpus/builder.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

struct TokenizerTraining {
  uint32_t vocabulary = 0;                      ///< with all special tokens
  std::string expression;                       ///< of the splitter; empty: GPT-2's
  std::vector<std::string> special_tokens;      ///< beside <|endoftext|>
  uint64_t sample_bytes = uint64_t{256} << 20;  ///< of text
};

/// Also sets options.tokenizer_origin, so that the build knows a later run that asks for the same. Error usage,
/// bad_data, missing_input.
std::shared_ptr<const Tokenizer> train_tokenizer(CorpusBuildOptions& options, const TokenizerTraining& training,
                                                 const CorpusBuildObserver& progress = {});

}  // namespace capstan
