#include "io/corpus/split.h"

#include <algorithm>

#include "core/error.h"
#include "io/corpus/document_reader.h"
#include "io/corpus/text_set.h"

namespace capstan {
namespace {

struct Survey {
  uint64_t documents = 0, bytes = 0;
  uint64_t lowest = UINT64_MAX, highest = 0;  // hashes of documents
  bool whole = true;                          // all of the inputs was seen
};

bool ends_too_early(const std::vector<InputFile>& files) {
  return std::any_of(files.begin(), files.end(), [](const InputFile& file) {
    return file.standard_input && !file.standard_input->ended_in_prefix();
  });
}

Survey survey(const std::vector<InputFile>& files, const DocumentOptions& options, const SplitPlanning& planning,
              uint64_t threshold) {
  Survey seen;
  TextSet texts;
  DocumentReader reader(files, options,
                        {.tokenizer = planning.tokenizer,
                         .digests = planning.drop_duplicates,
                         .skip_bad = planning.skip_bad,
                         .reading = Reading::look});
  bool dropping = false;
  for (BlockDocument piece; reader.next(piece);) {
    if (piece.begins) dropping = planning.drop_duplicates && piece.has_digest && !texts.insert(piece.digest);
    if (dropping) continue;
    seen.bytes += piece.text.size();
    if (!piece.begins) continue;
    seen.lowest = std::min(seen.lowest, piece.hash);
    seen.highest = std::max(seen.highest, piece.hash);
    if (++seen.documents >= kFewDocuments && seen.lowest < threshold && seen.highest >= threshold) return seen;
  }
  seen.whole = !ends_too_early(files);
  return seen;
}

/// Bytes for training when the end of the text is held out: nine tenths, or as asked.
uint64_t training_bytes(uint64_t bytes, std::optional<double> validation) {
  if (!validation) return bytes / 10 * 9 + bytes % 10 * 9 / 10;
  const auto held_out = static_cast<uint64_t>(static_cast<double>(bytes) * *validation);
  return bytes - std::max<uint64_t>(held_out, 1);
}

}  // namespace

SplitRule plan_split(const std::vector<InputFile>& files, const DocumentOptions& options,
                     const SplitPlanning& planning) {
  const double share = planning.validation.value_or(kDefaultValidation);
  if (!(share > 0 && share <= 0.5))
    throw Error::make(ExitCode::usage, "--validation: wanted a share above 0 and at most 0.5, got {}", share);
  SplitRule rule;
  rule.threshold = std::max<uint64_t>(static_cast<uint64_t>(share * 0x1p64), 1);
  const Survey seen = survey(files, options, planning, rule.threshold);
  if (seen.bytes < 2)
    throw Error::make(ExitCode::bad_data, "the inputs hold {} bytes of text, wanted more", seen.bytes);
  const bool one_text = seen.lowest == seen.highest || seen.highest < rule.threshold;
  if (seen.documents < kFewDocuments || one_text) {
    if (!seen.whole)
      throw Error::make(ExitCode::bad_data,
                        "standard input: its first {} bytes hold {} different "
                        "documents, wanted {} for a split; put "
                        "the text into a file, or let blank lines end "
                        "documents (--split-documents blank)",
                        StandardInput::kPrefix, seen.documents, kFewDocuments);
    rule.by_document = false;
    rule.train_bytes = training_bytes(seen.bytes, planning.validation);
    rule.threshold = 0;
  } else {
    rule.threshold = std::max(rule.threshold, seen.lowest + 1);  // at least one document is held out
  }
  return rule;
}

}  // namespace capstan
