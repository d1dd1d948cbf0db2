#pragma once
// SampleReader: a place in the order of a source -> its tokens. Knows how the blocks of each source and cut lie in the
// text (one stream, or packed), and puts the runs of a sample side by side, with a seam where text does not go on.
// Used by one thread.

#include <map>
#include <memory>
#include <vector>

#include "io/corpus/packing.h"
#include "io/corpus/stream_order.h"
#include "io/corpus/tokens.h"

namespace capstan {

class SampleReader {
 public:
  /// `together`: all corpora are one source (validation); else each is one.
  SampleReader(CorpusTokens& tokens, bool together) : tokens_(tokens), together_(together) {}

  uint64_t tokens_of(size_t source) const;
  /// Blocks of an epoch; makes the table of packed samples at the first call.
  uint64_t blocks(size_t source, const SourceCut& cut);
  /// stride tokens and `ahead` (0 or 1) more.
  void read(size_t source, const SourceOrder& order, const SourcePosition& position, uint64_t ahead, uint32_t* out,
            uint8_t* marks);
  /// Where a run begins in the line of all corpora.
  uint64_t first_token(size_t source, const SourceCut& cut, const BlockRun& run);
  size_t memory_bytes() const;

 private:
  PackedCorpus& packed(size_t source, uint64_t capacity);
  uint64_t begin_of(size_t source) const { return together_ ? 0 : tokens_.begin_of(source); }

  CorpusTokens& tokens_;
  bool together_;
  std::map<std::pair<size_t, uint64_t>, std::unique_ptr<PackedCorpus>> packed_;
};

}  // namespace capstan
