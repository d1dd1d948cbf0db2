#include "io/corpus_split.h"

#include <algorithm>

#include "core/error.h"
#include "io/corpus_digest.h"

namespace capstan {
namespace {

struct Survey {
  uint64_t documents = 0, bytes = 0;
  uint64_t lowest = UINT64_MAX, highest = 0;  // hashes of documents
};

Survey survey(const std::vector<InputFile>& files, const DocumentOptions& options, uint64_t threshold) {
  Survey seen;
  DocumentReader reader(files, options);
  for (DocumentPiece piece; reader.next(piece);) {
    seen.bytes += piece.text.size();
    if (!piece.begins) continue;
    const uint64_t hash = xxh3_64(piece.text);
    seen.lowest = std::min(seen.lowest, hash);
    seen.highest = std::max(seen.highest, hash);
    if (++seen.documents >= kFewDocuments && seen.lowest < threshold && seen.highest >= threshold) break;
  }
  return seen;
}

/// Bytes for training when the end of the text is held out: nine tenths, or as asked.
uint64_t place_of_cut(uint64_t bytes, std::optional<double> validation) {
  if (!validation) return bytes / 10 * 9 + bytes % 10 * 9 / 10;
  const auto held_out = static_cast<uint64_t>(static_cast<double>(bytes) * *validation);
  return bytes - std::max<uint64_t>(held_out, 1);
}

}  // namespace

SplitRule plan_split(const std::vector<InputFile>& files, const DocumentOptions& options,
                     std::optional<double> validation) {
  const double share = validation.value_or(kDefaultValidation);
  if (!(share > 0 && share <= 0.5))
    throw Error::make(ExitCode::usage, "--validation: wanted a share above 0 and at most 0.5, got {}", share);
  SplitRule rule;
  rule.threshold = std::max<uint64_t>(static_cast<uint64_t>(share * 0x1p64), 1);
  const Survey seen = survey(files, options, rule.threshold);
  if (seen.bytes < 2)
    throw Error::make(ExitCode::bad_data, "the inputs hold {} bytes of text, wanted more", seen.bytes);
  const bool one_text = seen.lowest == seen.highest || seen.highest < rule.threshold;
  if (seen.documents < kFewDocuments || one_text) {
    rule.by_document = false;
    rule.train_bytes = place_of_cut(seen.bytes, validation);
  } else {
    rule.threshold = std::max(rule.threshold, seen.lowest + 1);  // at least one document is held out
  }
  return rule;
}

void SplitAssigner::put(Split split, std::string_view text) {
  if (text.empty()) return;
  if (open_ && *open_ != split) end_(*open_);
  open_ = split;
  text_(split, text);
}

void SplitAssigner::add_by_place(std::string_view text) {
  const uint64_t before = rule_.train_bytes > position_ ? rule_.train_bytes - position_ : 0;
  size_t cut = static_cast<size_t>(std::min<uint64_t>(before, text.size()));
  if (cut > 0)  // not through the middle of a character
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) ++cut;
  position_ += text.size();
  put(Split::train, text.substr(0, cut));
  put(Split::validation, text.substr(cut));
}

void SplitAssigner::add(const DocumentPiece& piece) {
  if (rule_.by_document) {
    if (piece.begins) side_ = xxh3_64(piece.text) < rule_.threshold ? Split::validation : Split::train;
    put(side_, piece.text);
  } else {
    add_by_place(piece.text);
  }
  if (piece.ends && open_) {
    end_(*open_);
    open_.reset();
  }
}

}  // namespace capstan
