#pragma once
// A tokenizer of ours as others keep it. Every tokenizer but that of bytes is described in Hugging Face's own words
// already; bytes become a byte-level BPE without merges, which gives the same ids.

#include <string>
#include <utility>
#include <vector>

#include "io/tokenizer/spec.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

TokenizerSpec exported_spec(const Tokenizer& tokenizer);

/// Names and contents: tokenizer.json, tokenizer_config.json, special_tokens_map.json.
std::vector<std::pair<std::string, std::string>> hugging_face_tokenizer_files(const Tokenizer& tokenizer,
                                                                              int64_t context);

}  // namespace capstan
