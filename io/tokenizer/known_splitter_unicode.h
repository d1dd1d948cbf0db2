#pragma once
// The eight classes of characters that the expressions of byte-level tokenizers tell apart, for every code point. The
// version of Unicode is fixed (known_splitter_unicode.py), so tokens do not depend on the machine's libraries.

#include <cstdint>
#include <vector>

namespace capstan {

enum class CharacterClass : uint8_t {
  other,     ///< neither of the following; also what is not a character
  mark,      ///< M
  upper,     ///< Lu, Lt
  lower,     ///< Ll
  caseless,  ///< Lm, Lo
  number,    ///< N
  space,     ///< White_Space but the next
  newline,   ///< \r and \n
};

class CharacterClasses {
 public:
  static constexpr uint32_t kCodePoints = 0x110000;

  CharacterClasses();
  CharacterClass operator[](uint32_t code_point) const { return static_cast<CharacterClass>(classes_[code_point]); }

 private:
  std::vector<uint8_t> classes_;
};

/// The one table: made at the first call, never changed.
const CharacterClasses& character_classes();

}  // namespace capstan
