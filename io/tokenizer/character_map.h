#pragma once
// CharacterMap: SentencePiece's precompiled normalization, a double array trie from byte strings to their replacements.
// The file's offsets are untrusted: every step in the trie is checked.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

class CharacterMap {
 public:
  CharacterMap() = default;
  /// Error bad_data naming `where` when the sizes do not fit.
  CharacterMap(const std::string& charsmap, const std::string& where);

  struct Match {
    size_t length = 0;
    std::string_view replacement;
  };
  /// The shortest or the longest entry that begins at `at`.
  std::optional<Match> find(std::string_view text, size_t at, bool longest) const;
  bool empty() const { return units_.empty(); }

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;  // each ends in a NUL
};

}  // namespace capstan
