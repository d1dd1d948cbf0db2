#pragma once
// Base64 (RFC 4648), as in tiktoken's rank files and SentencePiece's character maps.

#include <optional>
#include <string>
#include <string_view>

namespace capstan {

std::string to_base64(std::string_view bytes);
/// Nothing when the text is not base64; padding may be left out.
std::optional<std::string> from_base64(std::string_view text);

}  // namespace capstan
