#include "io/tokenizer/byte_symbols.h"

#include <array>

#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr bool is_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<uint16_t, 256> make_symbols() {
  std::array<uint16_t, 256> symbols{};
  uint16_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) symbols[byte] = is_itself(byte) ? static_cast<uint16_t>(byte) : next++;
  return symbols;
}

constexpr std::array<int16_t, 0x144> make_bytes() {
  std::array<int16_t, 0x144> bytes{};
  for (auto& byte : bytes) byte = -1;
  const auto symbols = make_symbols();
  for (unsigned byte = 0; byte < 256; ++byte) bytes[symbols[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

constexpr auto kSymbols = make_symbols();
constexpr auto kSymbolOfByte = make_bytes();

}  // namespace

void append_byte_symbols(std::string& text, std::string_view bytes) {
  for (const char byte : bytes) append_utf8(text, kSymbols[static_cast<unsigned char>(byte)]);
}

std::string to_byte_symbols(std::string_view bytes) {
  std::string text;
  append_byte_symbols(text, bytes);
  return text;
}

std::optional<std::string> from_byte_symbols(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (text[at] > ' ' && text[at] < 0x7F) {  // themselves; others begin with a byte that is negative as a char
      bytes += text[at++];
      continue;
    }
    const Utf8Char c = utf8_at(text, at);
    if (!c.good || c.value >= kSymbolOfByte.size() || kSymbolOfByte[c.value] < 0) return std::nullopt;
    bytes += static_cast<char>(kSymbolOfByte[c.value]);
    at += c.size;
  }
  return bytes;
}

}  // namespace capstan
