#pragma once
// Which text is held out for validation. With 100 documents or more a document is held out when the hash of its text
// (of its first piece) falls below a threshold: the same document always lands on the same side, whatever stands before
// it and in whatever order inputs come. With fewer documents the last tenth of the text is held out, through the middle
// of a document where need be. Neither side is ever empty.

#include <cstdint>
#include <functional>
#include <optional>

#include "io/corpus_manifest.h"
#include "io/document_reader.h"

namespace capstan {

constexpr uint64_t kFewDocuments = 100;
constexpr double kDefaultValidation = 0.01;

struct SplitRule {
  bool by_document = true;
  uint64_t threshold = 0;    ///< by_document: held out when the hash is below
  uint64_t train_bytes = 0;  ///< else: text before this byte is for training
};

/// Reads as much of the inputs as it takes to know the rule: until both sides have a document and 100 were seen, else
/// everything. `validation`: the share to hold out, in (0, 0.5]. Error usage or bad_data.
SplitRule plan_split(const std::vector<InputFile>& files, const DocumentOptions& options,
                     std::optional<double> validation);

/// Applies a rule to the pieces of documents, in the order in which they are read.
class SplitAssigner {
 public:
  using Text = std::function<void(Split, std::string_view)>;
  using End = std::function<void(Split)>;
  SplitAssigner(SplitRule rule, Text text, End end) : rule_(rule), text_(std::move(text)), end_(std::move(end)) {}
  void add(const DocumentPiece& piece);

 private:
  void add_by_place(std::string_view text);
  void put(Split split, std::string_view text);

  SplitRule rule_;
  Text text_;
  End end_;
  Split side_ = Split::train;
  std::optional<Split> open_;  ///< side of the document that has not ended
  uint64_t position_ = 0;
};

}  // namespace capstan
