#pragma once
// Where a long text is cut into pieces that are encoded one by one. The place depends on the text alone.

#include <functional>
#include <string_view>

namespace capstan {

/// Whether text[0, at) and text[at, ...) may be encoded apart: Tokenizer::may_cut.
using CutRule = std::function<bool(std::string_view text, size_t at)>;

struct Cut {
  size_t at = 0;
  bool forced = false;  ///< the rule allows no cut up to kLongestPiece; this is one between two characters
};

/// The last allowed place up to kWholeDocument, but not in the first quarter; 0 when there is none. `text` is longer
/// than kWholeDocument; no more than kCutLook bytes of it are looked at, so that the place does not depend on what was
/// read.
size_t early_cut(std::string_view text, const CutRule& may_cut);

/// The early cut, else the first allowed place after. `text` must hold kLongestPiece + 4 bytes when that much is left
/// of the document.
Cut place_of_cut(std::string_view text, const CutRule& may_cut);

}  // namespace capstan
