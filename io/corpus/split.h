#pragma once
// Which text is held out for validation. With 100 documents or more a document is held out when its hash (xxh3-64 of
// its first MiB) falls below a threshold: the same document always lands on the same side, whatever stands before it
// and in whatever order inputs come. With fewer documents the last tenth of the text is held out, through the middle of
// a document where need be; then each part counts as a document, with the hash of its own text. Neither side is ever
// empty.

#include <cstdint>
#include <optional>
#include <vector>

#include "io/corpus/blocks.h"
#include "io/corpus/inputs.h"
#include "io/corpus/manifest.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

constexpr uint64_t kFewDocuments = 100;
constexpr double kDefaultValidation = 0.01;

struct SplitPlanning {
  std::optional<double> validation;  ///< the share to hold out, in (0, 0.5]
  bool drop_duplicates = false;
  uint64_t skip_bad = 0;
  const Tokenizer* tokenizer = nullptr;  ///< for Megatron inputs
};

/// Reads as much of the inputs as it takes to know the rule: until both sides have a document and 100 were seen, else
/// everything. Error usage or bad_data.
SplitRule plan_split(const std::vector<InputFile>& files, const DocumentOptions& options,
                     const SplitPlanning& planning);

}  // namespace capstan
