#pragma once
// The table by which byte-level vocabularies write bytes in JSON: each of the 256 bytes is a printable character,
// itself where it is one in Latin-1, else one from U+0100 on (GPT-2). Inside the program pieces are raw bytes; the
// table is used where files are read and written.

#include <optional>
#include <string>
#include <string_view>

namespace capstan {

void append_byte_symbols(std::string& text, std::string_view bytes);
std::string to_byte_symbols(std::string_view bytes);
/// Nothing when a character is none of the 256.
std::optional<std::string> from_byte_symbols(std::string_view text);

}  // namespace capstan
