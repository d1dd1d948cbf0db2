#include "io/tokenizer/sentencepiece_text.h"

#include "io/tokenizer/utf8.h"

namespace capstan {

SentencePiecePreparer::SentencePiecePreparer(const TokenizerSpec& spec, const std::string& where)
    : options_(*spec.sentencepiece), space_(options_.escape_spaces ? "\u2581" : " ") {
  for (const NormalizerSpec& part : spec.normalizer)
    if (const auto* map = std::get_if<Precompiled>(&part); map != nullptr && !map->charsmap.empty())
      map_ = CharacterMap(map->charsmap, where);
  std::vector<std::pair<std::string_view, uint32_t>> symbols;
  for (const AddedToken& token : spec.added)
    if (!token.special) symbols.emplace_back(token.content, token.id);
  symbols_ = ByteTrie(std::move(symbols));
}

SentencePiecePreparer::Part SentencePiecePreparer::next(std::string_view text, size_t at) const {
  size_t symbol = 0;
  symbols_.each_prefix(text, at, [&](size_t length, uint32_t) { symbol = length; });
  if (symbol > 0) return {text.substr(at, symbol), symbol};
  if (const auto match = map_.find(text, at, true)) return {match->replacement, match->length};
  const Utf8Char c = utf8_at(text, at);
  if (!c.good) return {"\uFFFD", 1};
  return {text.substr(at, c.size), c.size};
}

std::string_view SentencePiecePreparer::run(std::string_view text, bool begins) {
  out_.clear();
  size_t at = 0;
  if (options_.remove_extra_spaces)
    while (at < text.size()) {
      const Part part = next(text, at);
      if (part.text != " ") break;
      at += part.taken;
    }
  if (at == text.size()) return out_;
  if (begins && options_.add_dummy_prefix) out_ += space_;
  bool after_space = options_.remove_extra_spaces;
  while (at < text.size()) {
    Part part = next(text, at);
    at += part.taken;
    while (after_space && part.text.starts_with(' ')) part.text.remove_prefix(1);
    if (part.text.empty()) continue;
    for (const char c : part.text) {
      if (c == ' ')
        out_ += space_;
      else
        out_ += c;
    }
    after_space = options_.remove_extra_spaces && part.text.back() == ' ';
  }
  if (options_.remove_extra_spaces)
    while (out_.ends_with(space_)) out_.resize(out_.size() - space_.size());
  return out_;
}

}  // namespace capstan
