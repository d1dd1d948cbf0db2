#pragma once
// DocumentReader: input files in, documents out, one after another, in pieces of bounded size: what looks at the inputs
// before a build does (the split, the sample of a tokenizer's training) and what small tools use. A build itself reads
// by many threads (build_pipeline.h), through the same readers and parsers, and sees the same documents and pieces.

#include <cstdint>
#include <memory>
#include <vector>

#include "io/corpus/block_reader.h"
#include "io/corpus/document_parser.h"
#include "io/corpus/inputs.h"

namespace capstan {

struct DocumentReading {
  CutRule may_cut = {};                  ///< absent: anywhere
  const Tokenizer* tokenizer = nullptr;  ///< for Megatron inputs
  bool digests = false;
  uint64_t skip_bad = 0;
  Reading reading = Reading::whole;
};

class DocumentReader {
 public:
  DocumentReader(std::vector<InputFile> files, DocumentOptions options, DocumentReading reading = {});
  ~DocumentReader();

  /// False after the last document. `document` is valid until the next call. Error bad_data naming file and line,
  /// missing_input, io_error.
  bool next(BlockDocument& document);
  /// Leaves the rest of the current input out.
  void skip_file();
  /// Index of the input that the last document came from.
  size_t file() const { return block_.file; }
  uint64_t empty_documents() const { return empty_; }

 private:
  bool next_block();
  void check_bad_lines();

  const std::vector<InputFile> files_;
  const DocumentReading reading_;
  BlockOptions block_options_;
  DocumentParser parser_;
  std::unique_ptr<BlockReader> current_;
  Block block_;
  size_t next_file_ = 0, next_document_ = 0;
  uint64_t empty_ = 0, bad_ = 0;
};

}  // namespace capstan
