#pragma once
// WordPiece: the longest piece that fits, again and again, or the whole word is unknown (Schuster and Nakajima 2012).
// WordLevel: a word is a piece or it is unknown.

#include "io/tokenizer/model.h"

namespace capstan {

struct WordPieceSpec {
  std::vector<std::string> pieces;  ///< by id; empty: cannot be found in text
  std::optional<uint32_t> unknown;
  std::string continuing_prefix = "##";
  uint64_t longest_word = 100;  ///< characters; a longer word is unknown
};
std::shared_ptr<const TokenModel> make_word_piece_model(WordPieceSpec spec);

struct WordLevelSpec {
  std::vector<std::string> pieces;
  std::optional<uint32_t> unknown;
};
std::shared_ptr<const TokenModel> make_word_level_model(WordLevelSpec spec);

}  // namespace capstan
