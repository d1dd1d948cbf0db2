#pragma once
// DocumentParser: what a reader found becomes documents with their hashes: JSON is read, metadata are kept, Megatron
// tokens become text. Stateless towards other blocks, so blocks may be parsed in any order; one object a thread.

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/corpus/blocks.h"
#include "io/corpus/inputs.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

/// "file:line: why", for the bad line number `count` of at most `allowed`.
Error bad_line_error(const InputFile& file, const BadLine& line, uint64_t count, uint64_t allowed);
std::string place_of(const InputFile& file, const BadLine& line);

/// The part of a document that its hash is taken of.
constexpr size_t kHashedBytes = size_t{1} << 20;

class DocumentParser {
 public:
  /// `tokenizer` is needed for Megatron inputs only. `digests`: fill BlockDocument::digest.
  DocumentParser(const std::vector<InputFile>& files, const DocumentOptions& options, const Tokenizer* tokenizer,
                 bool digests);
  ~DocumentParser();

  /// Lines that hold no document go to block.bad. Error bad_data for a bad Megatron dataset.
  void parse(Block& block);

 private:
  class Lines;
  void finish(Block& block) const;

  const std::vector<InputFile>& files_;
  const Tokenizer* tokenizer_;
  bool digests_;
  std::string no_metadata_;  ///< of a document that is no line of JSON
  std::unique_ptr<Lines> lines_;
};

}  // namespace capstan
