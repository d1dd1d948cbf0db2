#include "io/corpus/piece_encoder.h"

#include <cstring>

#include "core/error.h"

namespace capstan {

PieceEncoder::PieceEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      may_cut_([&tokenizer](std::string_view text, size_t at) { return tokenizer.may_cut(text, at); }),
      width_(tokenizer.vocabulary() <= 65536 ? 2 : 4),
      encoder_(tokenizer.encoder()) {}

void PieceEncoder::encode(Block& block) {
  for (BlockPiece& piece : block.pieces) {
    if (piece.known) {
      piece.tokens = 0;
      continue;
    }
    const size_t first = block.tokens.size() / width_;
    if (block.documents[piece.document].tokens > 0)
      store(block, block.ids.data() + piece.first_token, piece.tokens);
    else
      encode_text(block, piece);
    piece.first_token = first;
    piece.tokens = block.tokens.size() / width_ - first;
  }
  for (BlockPiece& piece : block.pieces) piece.text = {};
  for (BlockDocument& document : block.documents) document.text = {};
  block.bytes = {};
  block.texts = {};
  block.ids = {};
}

void PieceEncoder::encode_text(Block& block, const BlockPiece& piece) {
  bool begins = piece.begins;
  for (std::string_view rest = piece.text; !rest.empty();) {
    Cut cut{rest.size(), false};
    if (rest.size() > kWholeDocument) cut = place_of_cut(rest, may_cut_);  // JSONL: a document is in one block
    block.forced_cuts += cut.forced;
    ids_.clear();
    encoder_->encode(rest.substr(0, cut.at), begins, ids_);
    store(block, ids_.data(), ids_.size());
    begins = false;
    rest.remove_prefix(cut.at);
  }
}

void PieceEncoder::store(Block& block, const uint32_t* ids, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, ids[i]);
  CAPSTAN_CHECK(largest < tokenizer_.vocabulary(), "tokenizer {} gave id {}", tokenizer_.name(), largest);
  const size_t at = block.tokens.size();
  block.tokens.resize(at + count * width_);
  char* out = block.tokens.data() + at;
  if (width_ == 4) {
    std::memcpy(out, ids, count * 4);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const auto narrow = static_cast<uint16_t>(ids[i]);
    std::memcpy(out + 2 * i, &narrow, 2);
  }
}

}  // namespace capstan
