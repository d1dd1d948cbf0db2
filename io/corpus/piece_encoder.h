#pragma once
// PieceEncoder: the texts of a block's pieces become tokens as a shard stores them. One a thread.

#include <memory>
#include <vector>

#include "io/corpus/blocks.h"
#include "io/corpus/cut_rule.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

class PieceEncoder {
 public:
  explicit PieceEncoder(const Tokenizer& tokenizer);
  /// Fills block.tokens and the places of tokens in the pieces; frees the texts.
  void encode(Block& block);

 private:
  void encode_text(Block& block, const BlockPiece& piece);
  void store(Block& block, const uint32_t* ids, size_t count);

  const Tokenizer& tokenizer_;
  const CutRule may_cut_;
  const size_t width_;
  std::unique_ptr<TokenEncoder> encoder_;
  std::vector<uint32_t> ids_;
};

}  // namespace capstan
