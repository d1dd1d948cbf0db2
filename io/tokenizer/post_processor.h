#pragma once
// PostProcessor: the special tokens that a tokenizer puts around a text of its own (BERT's [CLS] and [SEP], LLaMA's
// beginning of text). Nothing but that is of use here; the file's member is kept as it is for Hugging Face.

#include <cstdint>
#include <string>
#include <vector>

#include "io/json_events.h"

namespace capstan {

struct PostProcessor {
  std::vector<uint32_t> before, after;
};

/// Error bad_data naming `where`: an unknown type, a token that the template does not declare, an id beyond
/// `vocabulary`.
PostProcessor read_post_processor(const JsonValue& value, uint32_t vocabulary, const std::string& where);

}  // namespace capstan
