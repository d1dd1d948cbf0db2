#pragma once
// BlockReader: one input in blocks of about 1 MiB, in order. It finds where lines and documents end and does as little
// else as it can, because one file can be read by one thread only; everything that may be done by many threads is left
// to the parser. A text file is one document, or one per run of lines without a blank one; a line of JSONL is one
// document; a Megatron-LM dataset says itself.

#include <memory>

#include "io/corpus/blocks.h"
#include "io/corpus/cut_rule.h"
#include "io/corpus/inputs.h"

namespace capstan {

class BlockReader {
 public:
  virtual ~BlockReader() = default;
  /// Fills an empty block; false at the end of the input. Error bad_data, missing_input, io_error.
  virtual bool next(Block& block) = 0;
  /// Bytes on disk read so far.
  virtual uint64_t consumed() const = 0;
};

struct BlockOptions {
  DocumentSplit split = DocumentSplit::none;
  CutRule may_cut;
  Reading reading = Reading::whole;
  bool digests = false;  ///< of documents that are too long for a block (those of whole files only)
};

std::unique_ptr<BlockReader> open_block_reader(const InputFile& file, const BlockOptions& options);

}  // namespace capstan
