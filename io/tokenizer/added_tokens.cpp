#include "io/tokenizer/added_tokens.h"

#include "io/tokenizer/characters.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

/// The character that ends at `end`.
Utf8Char char_before(std::string_view text, size_t end) {
  for (size_t back = 1; back <= 4 && back <= end; ++back) {
    const Utf8Char c = utf8_at(text, end - back);
    if (c.good && c.size == back) return c;
  }
  return {static_cast<unsigned char>(text[end - 1]), 1, false};
}

bool is_word(const Utf8Char& c) { return c.good && is_word_character(c.value); }
bool is_space(const Utf8Char& c) { return c.good && is_white_space(c.value); }

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !is_word(char_before(text, begin))) && (end == text.size() || !is_word(utf8_at(text, end)));
}

size_t before_spaces(std::string_view text, size_t at, size_t least) {
  while (at > least) {
    const Utf8Char c = char_before(text, at);
    if (!is_space(c)) break;
    at -= c.size;
  }
  return std::max(at, least);
}

size_t after_spaces(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Char c = utf8_at(text, at);
    if (!is_space(c)) break;
    at += c.size;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, std::vector<std::string> texts)
    : tokens_(std::move(tokens)), texts_(std::move(texts)) {
  std::vector<std::pair<std::string_view, uint32_t>> strings;
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    strings.emplace_back(texts_[i], i);
    all_special_ = all_special_ && tokens_[i].special;
  }
  trie_ = ByteTrie(std::move(strings));
}

void AddedTokens::find(std::string_view text, bool special, std::vector<Found>& parts) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    if (!trie_.may_begin(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    size_t length = 0;
    uint32_t which = 0;
    trie_.each_prefix(text, at, [&](size_t size, uint32_t value) { length = size, which = value; });
    if (length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[which];
    size_t begin = at, end = at + length;
    at = end;  // what was found is used up even when its flags refuse it
    if (token.special && !special) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = before_spaces(text, begin, std::min(begin, done));
    if (begin < done) begin = done;
    if (token.rstrip) end = after_spaces(text, end);
    if (begin > done) parts.push_back({done, begin, std::nullopt});
    parts.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), std::nullopt});
}

}  // namespace capstan
