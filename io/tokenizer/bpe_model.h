#pragma once
// BPE: a word starts as bytes (byte-level) or characters and the pair of neighbours of least rank is merged, the
// leftmost of equals first, until no pair has a rank (Sennrich et al. 2016, arXiv:1508.07909). Common words come out of
// a cache of bounded size (3 MiB an encoder), others are merged by a scan, long ones through a queue of pairs: n log n
// time and some 20 bytes of memory for each byte of a word. The clever thing: between two characters that no piece has
// side by side nothing ever merges, so long words fall into short ones there.
// Ids are those of Hugging Face `tokenizers`, and so is this: a character without a piece is left out when there is
// neither an unknown token nor a fallback to bytes.

#include "io/tokenizer/model.h"

namespace capstan {

struct BpeSpec {
  struct Merge {
    uint32_t left, right, result;
  };
  std::vector<std::string> pieces;  ///< by id; empty: no such id. Raw bytes when byte_level
  std::vector<Merge> merges;        ///< in order of rank; of two with the same pair the later counts
  bool byte_level = false;          ///< symbols are the 256 bytes
  bool byte_fallback = false;       ///< characters without a piece become the pieces <0x00> .. <0xFF>
  bool fuse_unknown = false;        ///< neighbouring unknown characters become one unknown token
  bool ignore_merges = false;       ///< a word that is a piece is that piece, whatever the merges say
  bool equal_results_tie = false;   ///< merges of equal result that follow each other have one rank
  std::optional<uint32_t> unknown;
  std::string continuing_prefix, end_suffix;  ///< of pieces inside a word; of the last piece of a word (GPT-1)
};

/// Error bad_data naming `where`: a merge of ids that do not exist or whose joined text is not the result's, two pieces
/// alike, an unknown token that does not exist, more than 2^24 pieces.
std::shared_ptr<const TokenModel> make_bpe_model(BpeSpec spec, const std::string& where);

}  // namespace capstan
