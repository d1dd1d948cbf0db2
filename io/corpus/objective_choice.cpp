#include "io/corpus/objective_choice.h"

namespace capstan {
namespace {

/// "▁" of SentencePiece, "Ġ", "Ċ" and "ĉ" of byte-level BPE (space, line end, tab), and the characters themselves.
bool begins_with_space(std::string_view text) {
  for (const std::string_view start : {"\xe2\x96\x81", "\xc4\xa0", "\xc4\x8a", "\xc4\x89", " ", "\n", "\t", "\r"})
    if (text.starts_with(start)) return true;
  return false;
}

}  // namespace

std::vector<uint8_t> word_beginnings(const Tokenizer& tokenizer) {
  const uint32_t count = tokenizer.vocabulary();
  std::vector<std::string> names(count);
  bool pieces = false;
  for (uint32_t token = 0; token < count; ++token) {
    names[token] = tokenizer.token_name(token);
    pieces = pieces || (names[token].size() > 2 && names[token].starts_with("##"));
  }
  std::vector<uint8_t> begins(count);
  for (uint32_t token = 0; token < count; ++token) {
    const bool special = tokenizer.text_bytes(token) == 0;
    if (pieces)
      begins[token] = special || !names[token].starts_with("##");
    else
      begins[token] =
          special || begins_with_space(names[token]) || begins_with_space(tokenizer.decode(std::span(&token, 1)));
  }
  return begins;
}

}  // namespace capstan
