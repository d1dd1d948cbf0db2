#pragma once
// CorpusShardWriter: tokens in, one HDF5 shard out. HDF5 says "success" on a full disk until the very end and sometimes
// even then, so nothing it says is believed: the shard is written as NAME.partial, flushed and closed with every return
// value checked, opened again read-only by the distrustful reader, read through and compared with the digests taken in
// memory, fsynced, and only then renamed. The same documents give the same bytes. A writer that is not finished removes
// its partial file. Failpoints: corpus.write before each write of a chunk, corpus.flush, corpus.close, and
// file_system.h's.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "io/corpus/manifest.h"

namespace capstan {

class CorpusShardWriter {
 public:
  /// `manifest` gives tokenizer hash, vocabulary and end of document. Error cannot_create.
  CorpusShardWriter(const std::filesystem::path& directory, const std::string& file, const CorpusManifest& manifest);
  ~CorpusShardWriter();

  /// More tokens of the current document, as they are stored (manifest.token_width() bytes each, ids below the
  /// vocabulary), which stand for `text_bytes` bytes of text.
  void append(std::span<const char> stored, uint64_t text_bytes);
  /// Appends the end of document. `hash`: the document's, see SplitRule.
  void end_document(uint64_t hash);
  uint64_t tokens() const;
  /// All of the protocol above; the writer is done afterwards. Error io_error.
  ShardRecord finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace capstan
