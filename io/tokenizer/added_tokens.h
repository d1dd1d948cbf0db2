#pragma once
// AddedTokens: finds the tokens that were added to a vocabulary inside a text: the leftmost, of those the longest, then
// the flags of the token decide (a whole word only; spaces at its sides belong to it).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/byte_trie.h"
#include "io/tokenizer/spec.h"

namespace capstan {

class AddedTokens {
 public:
  struct Found {
    size_t begin = 0, end = 0;
    std::optional<uint32_t> token;  ///< nothing: text between tokens
  };

  AddedTokens() = default;
  /// `texts[i]` is what `tokens[i]` looks like (normalized, where that token asks for it).
  AddedTokens(std::vector<AddedToken> tokens, std::vector<std::string> texts);

  bool empty() const { return tokens_.empty(); }
  bool all_special() const { return all_special_; }
  /// Appends parts that cover the text; special tokens only when `special`.
  void find(std::string_view text, bool special, std::vector<Found>& parts) const;

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> texts_;
  ByteTrie trie_;
  bool all_special_ = true;
};

}  // namespace capstan
