#include "io/corpus/cut_rule.h"

#include <algorithm>

#include "io/corpus/blocks.h"

namespace capstan {
namespace {

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

size_t early_cut(std::string_view text, const CutRule& may_cut) {
  static_assert(kWholeDocument / 4 >= size_t{1} << 20, "the first piece of a document must cover what its hash covers");
  text = text.substr(0, kCutLook);
  for (size_t at = kWholeDocument; at >= kWholeDocument / 4; --at)
    if (!continues_character(text[at]) && may_cut(text, at)) return at;
  return 0;
}

Cut place_of_cut(std::string_view text, const CutRule& may_cut) {
  if (const size_t at = early_cut(text, may_cut)) return {at, false};
  text = text.substr(0, kLongestPiece + 4);
  const size_t last = std::min(text.size() - 1, kLongestPiece);
  for (size_t at = kWholeDocument + 1; at <= last; ++at)
    if (!continues_character(text[at]) && may_cut(text, at)) return {at, false};
  if (text.size() <= kLongestPiece) return {text.size(), false};
  size_t at = kLongestPiece;
  while (at > kLongestPiece - 4 && continues_character(text[at])) --at;
  return {at, true};
}

}  // namespace capstan
