#pragma once
// Unigram: the segmentation of a word into pieces whose scores sum to the most, by Viterbi (Kudo 2018,
// arXiv:1804.10959). Ties and rounding decide between segmentations more often than one would think ("aaa" as aa+a or
// a+aa), so sums are made in the order and precision of the library that is followed.

#include "io/tokenizer/model.h"

namespace capstan {

struct UnigramSpec {
  std::vector<std::string> pieces;  ///< by id; empty: cannot be found in text
  std::vector<double> scores;
  std::optional<uint32_t> unknown;
  bool byte_fallback = false;
  std::vector<std::optional<uint32_t>> bytes;  ///< tokens of the 256 bytes, where byte_fallback
  bool sentencepiece = false;                  ///< sums in single precision, as SentencePiece has them
  std::vector<uint32_t> user_defined;          ///< SentencePiece's: taken wherever they fit
};

/// Error bad_data naming `where`: scores that are no numbers, ids out of range.
std::shared_ptr<const TokenModel> make_unigram_model(UnigramSpec spec, const std::string& where);

}  // namespace capstan
