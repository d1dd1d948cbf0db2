#include "io/corpus/document_router.h"

#include <algorithm>

#include "core/error.h"
#include "io/corpus/document_parser.h"

namespace capstan {
namespace {

constexpr size_t kNamedLines = 10;

}  // namespace

DocumentRouter::DocumentRouter(const std::vector<InputFile>& files, const RouterOptions& options,
                               const Tokenizer* tokenizer)
    : files_(files), options_(options), tokenizer_(tokenizer) {}

void DocumentRouter::note_bad(const Block& block, const BadLine& line) {
  const InputFile& file = files_[block.file];
  if (++tally_.bad_lines > options_.skip_bad) throw bad_line_error(file, line, tally_.bad_lines, options_.skip_bad);
  if (tally_.first_bad.size() < kNamedLines) tally_.first_bad.push_back(place_of(file, line));
}

void DocumentRouter::route(Block& block) {
  auto bad = block.bad.begin();
  for (uint32_t i = 0; i < block.documents.size(); ++i) {
    for (; bad != block.bad.end() && bad->before <= i; ++bad) note_bad(block, *bad);
    const BlockDocument& document = block.documents[i];
    if (document.begins) {
      ++tally_.documents;
      dropping_ = is_duplicate(document);
      hash_ = document.hash;
    }
    if (dropping_) {
      tally_.duplicate_bytes += document.text.size();
      continue;
    }
    options_.rule.by_document ? route_document(block, i) : route_by_place(block, i);
  }
  for (; bad != block.bad.end(); ++bad) note_bad(block, *bad);
  tally_.empty += block.empty;
  tally_.text_set_bytes = seen_.memory_bytes();
}

bool DocumentRouter::is_duplicate(const BlockDocument& document) {
  const bool duplicate = options_.drop_duplicates && document.has_digest && !seen_.insert(document.digest);
  tally_.duplicates += duplicate;
  return duplicate;
}

void DocumentRouter::route_document(Block& block, uint32_t index) {
  const BlockDocument& document = block.documents[index];
  Split side = open_.value_or(Split::train);
  if (document.begins) side = document.hash < options_.rule.threshold ? Split::validation : Split::train;
  put(block, index, side, 0, document.text.size());
  if (document.ends) close(block, index);
}

void DocumentRouter::route_by_place(Block& block, uint32_t index) {
  const BlockDocument& document = block.documents[index];
  const std::string_view text = document.text;
  const uint64_t before = options_.rule.train_bytes > position_ ? options_.rule.train_bytes - position_ : 0;
  size_t cut = static_cast<size_t>(std::min<uint64_t>(before, text.size()));
  if (cut > 0)  // not through the middle of a character
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) ++cut;
  position_ += text.size();
  if (cut > 0) put(block, index, Split::train, 0, cut);
  if (cut < text.size()) {
    if (open_ == Split::train) close(block, index);
    put(block, index, Split::validation, cut, text.size());
  }
  if (document.ends && open_) close(block, index);
}

void DocumentRouter::put(Block& block, uint32_t index, Split side, size_t begin, size_t end) {
  const BlockDocument& document = block.documents[index];
  BlockPiece& piece = block.pieces.emplace_back();
  piece.begins = !open_;
  if (piece.begins) {
    const size_t which = side == Split::train ? 0 : 1;
    known_ = begun_[which]++ < options_.known_documents[which];
  }
  open_ = side;
  piece.text = document.text.substr(begin, end - begin);
  piece.split = side;
  piece.known = known_;
  piece.document = index;
  piece.text_bytes = piece.text.size();
  if (document.tokens > 0) set_tokens(block, piece, document, begin);
}

/// Ends the open document: on its last piece when that lies in this block, else on an empty one.
void DocumentRouter::close(Block& block, uint32_t index) {
  if (block.pieces.empty()) {
    BlockPiece& piece = block.pieces.emplace_back();
    piece.split = *open_;
    piece.known = known_;
    piece.document = index;
  }
  block.pieces.back().ends = true;
  block.pieces.back().hash = hash_;
  open_.reset();
}

/// Tokens that stand for the piece: those whose text begins in it.
void DocumentRouter::set_tokens(const Block& block, BlockPiece& piece, const BlockDocument& document,
                                size_t begin) const {
  const size_t last = document.first_token + document.tokens;
  size_t at = document.first_token;
  const auto skip = [&](size_t text) {
    while (at < last && text > 0) text -= std::min<size_t>(text, tokenizer_->text_bytes(block.ids[at++]));
  };
  skip(begin);
  piece.first_token = at;
  if (begin + piece.text.size() == document.text.size())
    at = last;
  else
    skip(piece.text.size());
  piece.tokens = at - piece.first_token;
}

}  // namespace capstan
