#pragma once
// SentencePieceText: makes text ready as SentencePiece itself does: the character map by longest match, user-defined
// pieces left as they are, spaces joined and dropped at the ends, one put in front, all of them written as U+2581. Bad
// bytes of broken UTF-8 become U+FFFD each, as there. One thread.

#include <string>
#include <string_view>

#include "io/tokenizer/byte_trie.h"
#include "io/tokenizer/character_map.h"
#include "io/tokenizer/spec.h"

namespace capstan {

class SentencePiecePreparer {
 public:
  /// The map is that of the spec's Precompiled normalizer; user-defined pieces are its added tokens that are not
  /// special.
  SentencePiecePreparer(const TokenizerSpec& spec, const std::string& where);

  /// A view of this object's memory, good until the next call. `begins`: put a space in front.
  std::string_view run(std::string_view text, bool begins);

 private:
  struct Part {
    std::string_view text;
    size_t taken;
  };
  Part next(std::string_view text, size_t at) const;

  SentencePieceText options_;
  CharacterMap map_;
  ByteTrie symbols_;
  std::string space_, out_;
};

}  // namespace capstan
