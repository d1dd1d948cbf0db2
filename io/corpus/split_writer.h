#pragma once
// SplitWriter: one split of a corpus on its way to disk, shard after shard. Shards that an earlier run finished are
// taken over; the documents that stand in them already come again as hashes only and are compared.

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "io/corpus/blocks.h"
#include "io/corpus/metadata_file.h"
#include "io/corpus/shard_writer.h"

namespace capstan {

class SplitWriter {
 public:
  using Finished = std::function<void(Split, const ShardRecord&)>;

  SplitWriter(const std::filesystem::path& out, Split which, const CorpusManifest& manifest, uint64_t shard_tokens,
              std::vector<ShardRecord> known, Finished finished);

  void add(const BlockPiece& piece, const Block& block);
  std::vector<ShardRecord> finish();

 private:
  void compare_known(const BlockPiece& piece);
  void begin_shard();
  void finish_shard();

  const std::filesystem::path out_;
  const Split which_;
  const CorpusManifest& manifest_;
  const uint64_t shard_tokens_;
  Finished finished_;
  std::vector<ShardRecord> shards_;
  size_t known_, known_shard_ = 0, known_document_ = 0;
  std::vector<uint64_t> known_hashes_;  ///< of one shard
  std::unique_ptr<CorpusShardWriter> writer_;
  std::unique_ptr<MetadataWriter> metadata_;
};

}  // namespace capstan
