#pragma once
// DocumentRouter: the one stage of a build that sees all documents in their order. It drops duplicates, gives every
// document its split, cuts the text where the split is by place, knows which documents stand in shards of an earlier
// run, and counts bad lines. It touches hashes and never text, so it keeps up with any number of parsers.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/corpus/blocks.h"
#include "io/corpus/inputs.h"
#include "io/corpus/text_set.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

struct RouterOptions {
  SplitRule rule;
  bool drop_duplicates = false;
  uint64_t skip_bad = 0;
  uint64_t known_documents[2] = {0, 0};  ///< of train and validation, in finished shards
};

struct RouterTally {
  uint64_t documents = 0;  ///< as they were read, without empty ones
  uint64_t empty = 0;
  uint64_t duplicates = 0, duplicate_bytes = 0;
  uint64_t bad_lines = 0;
  uint64_t text_set_bytes = 0;
  std::vector<std::string> first_bad;  ///< "file:line: why", at most 10
};

class DocumentRouter {
 public:
  /// `tokenizer` is needed for Megatron inputs only.
  DocumentRouter(const std::vector<InputFile>& files, const RouterOptions& options, const Tokenizer* tokenizer);

  /// Fills block.pieces. Blocks in their order. Error bad_data for one bad line too many.
  void route(Block& block);
  const RouterTally& tally() const { return tally_; }

 private:
  void note_bad(const Block& block, const BadLine& line);
  bool is_duplicate(const BlockDocument& document);
  void route_document(Block& block, uint32_t index);
  void route_by_place(Block& block, uint32_t index);
  void put(Block& block, uint32_t index, Split side, size_t begin, size_t end);
  void close(Block& block, uint32_t index);
  void set_tokens(const Block& block, BlockPiece& piece, const BlockDocument& document, size_t begin) const;

  const std::vector<InputFile>& files_;
  const RouterOptions options_;
  const Tokenizer* tokenizer_;
  TextSet seen_;
  RouterTally tally_;
  uint64_t begun_[2] = {0, 0};
  bool dropping_ = false, known_ = false;
  std::optional<Split> open_;
  uint64_t hash_ = 0;      ///< of the open document, the whole of it
  uint64_t position_ = 0;  ///< of the text, by place
};

}  // namespace capstan
