#pragma once
// What a trained byte-level BPE becomes: a tokenizer whose tokenizer.json Hugging Face reads, with the training's
// expression as pre-tokenizer and its special tokens behind the pieces.

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

/// `bpe.pieces` are raw bytes. `expression`: of the splitter, in Hugging Face's dialect; empty: GPT-2's. The special
/// tokens get the ids after the pieces, in order; "<|endoftext|>", which ends documents, is put last unless it is among
/// them. Error bad_data for a special token that is empty, named twice, or a piece.
std::unique_ptr<Tokenizer> make_byte_level_tokenizer(BpeSpec bpe, std::string expression,
                                                     std::vector<std::string> special_tokens, std::string name);

}  // namespace capstan
