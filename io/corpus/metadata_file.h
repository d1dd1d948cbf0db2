#pragma once
// What a corpus keeps about its documents: beside each shard NAME.h5 a file NAME.metadata.jsonl.zst with one line of
// JSON a document, in the order of the shard's documents. Any program that reads zstd and JSON reads it; its size and
// xxh3-128 stand in the manifest. Written under the name .partial, synced, renamed.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "io/corpus/manifest.h"
#include "io/file_system.h"

namespace capstan {

class MetadataWriter {
 public:
  explicit MetadataWriter(const std::filesystem::path& file);
  ~MetadataWriter();
  void add(std::string_view line);
  /// Fills metadata_size and metadata_digest; the file has its final name afterwards. Error io_error.
  void finish(ShardRecord& record);

 private:
  struct Stream;
  void compress(std::string_view bytes, int end);

  std::filesystem::path final_;
  DurableFile file_;
  bool renamed_ = false;
  std::unique_ptr<Stream> stream_;
};

/// Reads all of a shard's metadata file: size, digest, one line a document. Error missing_input or bad_data.
void verify_metadata(const std::filesystem::path& directory, const ShardRecord& record);

}  // namespace capstan
