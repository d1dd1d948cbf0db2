#include "io/corpus/split_writer.h"

#include "core/error.h"
#include "io/corpus/shard.h"

namespace capstan {
namespace fs = std::filesystem;

SplitWriter::SplitWriter(const fs::path& out, Split which, const CorpusManifest& manifest, uint64_t shard_tokens,
                         std::vector<ShardRecord> known, Finished finished)
    : out_(out),
      which_(which),
      manifest_(manifest),
      shard_tokens_(shard_tokens),
      finished_(std::move(finished)),
      shards_(std::move(known)),
      known_(shards_.size()) {}

void SplitWriter::add(const BlockPiece& piece, const Block& block) {
  if (piece.known) return compare_known(piece);
  if (!writer_) begin_shard();
  const uint64_t width = manifest_.token_width();
  writer_->append(std::span(block.tokens).subspan(piece.first_token * width, piece.tokens * width), piece.text_bytes);
  if (metadata_ && piece.begins) metadata_->add(block.documents[piece.document].metadata);
  if (!piece.ends) return;
  writer_->end_document(piece.hash);
  if (writer_->tokens() >= shard_tokens_) finish_shard();
}

void SplitWriter::compare_known(const BlockPiece& piece) {
  if (!piece.ends) return;
  if (known_document_ == 0) known_hashes_ = CorpusShard(out_, shards_[known_shard_], manifest_).read_document_hashes();
  if (known_hashes_[known_document_] != piece.hash)
    throw Error::make(ExitCode::bad_data,
                      "document {} of {} is not the one that an earlier run "
                      "read there: an input changed since then; "
                      "remove {} and build anew",
                      known_document_, shards_[known_shard_].file, out_.string());
  if (++known_document_ == known_hashes_.size()) {
    known_document_ = 0;
    ++known_shard_;
  }
}

void SplitWriter::begin_shard() {
  if (known_shard_ < known_)
    throw Error::make(ExitCode::internal, "{}: a new document before the known ones were all seen", out_.string());
  const std::string file = fmt::format("{}-{:05}.h5", name_of(which_), shards_.size());
  writer_ = std::make_unique<CorpusShardWriter>(out_, file, manifest_);
  if (!manifest_.metadata_fields.empty()) metadata_ = std::make_unique<MetadataWriter>(out_ / metadata_name(file));
}

void SplitWriter::finish_shard() {
  ShardRecord metadata;
  if (metadata_) metadata_->finish(metadata);
  ShardRecord record = writer_->finish();
  record.metadata_size = metadata.metadata_size;
  record.metadata_digest = metadata.metadata_digest;
  metadata_.reset();
  writer_.reset();
  shards_.push_back(record);
  finished_(which_, record);
}

std::vector<ShardRecord> SplitWriter::finish() {
  if (known_shard_ < known_)
    throw Error::make(ExitCode::bad_data,
                      "the inputs end before the documents of {}: an input "
                      "changed since an earlier run read it; "
                      "remove {} and build anew",
                      shards_[known_shard_].file, out_.string());
  if (writer_) finish_shard();
  return std::move(shards_);
}

}  // namespace capstan
