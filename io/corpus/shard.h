#pragma once
// CorpusShard: one HDF5 file of a corpus, opened as if an enemy had made it. Before anything is read: the name stays in
// the directory, the size is the manifest's, every dataset is reached by a hard link, is one-dimensional, chunked (at
// most 256 KiB a chunk), unfiltered, of exactly the expected type and extent, and no longer than the file; attributes
// agree with the manifest. What is read: each chunk's xxh3 is compared with the table (whose digest the manifest holds)
// at every read, and each token with the vocabulary, so a flipped bit never reaches the model.
// Calls are serialised over the process by the HDF5 session; one object is used by one thread at a time.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "io/corpus/manifest.h"

namespace capstan {

class CorpusShard {
 public:
  /// Error missing_input or bad_data, naming the shard.
  CorpusShard(const std::filesystem::path& directory, const ShardRecord& record, const CorpusManifest& manifest);
  ~CorpusShard();
  CorpusShard(const CorpusShard&) = delete;
  CorpusShard& operator=(const CorpusShard&) = delete;

  const ShardRecord& record() const { return record_; }
  uint64_t chunks() const { return record_.chunks(); }
  uint64_t tokens_in(uint64_t chunk) const;

  /// Tokens of one chunk as they are stored: tokens_in(chunk) little-endian words of manifest.token_width() bytes.
  /// Error bad_data naming shard, chunk and token.
  void read_chunk(uint64_t chunk, void* out) const;

  /// Where each document begins, and at the end the number of tokens. Whole table, checked against its digest.
  std::vector<uint64_t> read_document_offsets() const;

  /// The hash of each document, the very one that decides its split (SplitRule). Whole table, checked as well.
  std::vector<uint64_t> read_document_hashes() const;

 private:
  struct File;
  void check_hash(uint64_t chunk, const void* data) const;
  void check_tokens(uint64_t chunk, const void* data) const;
  std::string place_of(uint64_t chunk) const;

  std::filesystem::path path_;
  ShardRecord record_;
  uint64_t width_;
  uint32_t vocabulary_;
  std::unique_ptr<File> file_;
  std::vector<uint64_t> hashes_;
};

}  // namespace capstan
