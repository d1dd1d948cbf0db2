#pragma once
// Classes of characters as Hugging Face `tokenizers` (Rust) sees them, from ICU's tables; quick for ASCII. A bad byte
// of broken UTF-8 is in no class. The versions of Unicode differ between libraries for newly assigned characters only.

#include <cstdint>

namespace capstan {

bool is_white_space(char32_t c);      ///< property White_Space
bool is_numeric(char32_t c);          ///< Nd, Nl, No
bool is_punctuation(char32_t c);      ///< P* of Unicode 8, and all of ASCII's signs
bool is_combining_mark(char32_t c);   ///< Mn, Mc, Me of Unicode 9
bool is_nonspacing_mark(char32_t c);  ///< Mn of Unicode 8
bool is_other(char32_t c);            ///< Cc, Cf, Co of Unicode 8
bool is_word_character(char32_t c);   ///< \w: Alphabetic, marks, Nd, Pc, Join_Control
/// Script of Unicode 9, USCRIPT_UNKNOWN for none: Hiragana and Katakana count as Han; Common and Inherited are what
/// they are.
int32_t script_of(char32_t c);

}  // namespace capstan
