#pragma once
// CorpusTokens: one split of several corpora as a single line of tokens, corpus after corpus, shard after shard. Keeps
// a fixed number of verified chunks in memory and a few shards open; both are allocated at the start, so that reading
// allocates nothing large. Of training text, what any corpus of the blend holds out comes as blank (tokens_held_out.h).
// Used by one thread.

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "io/corpus/corpus.h"
#include "io/corpus/objective.h"
#include "io/corpus/shard.h"
#include "io/corpus/tokens_held_out.h"

namespace capstan {

class CorpusTokens {
 public:
  /// The corpora must have the same tokenizer. Error config.
  CorpusTokens(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, uint64_t cache_bytes);

  uint64_t size() const { return size_; }
  /// Tokens of one corpus begin here; those of corpus number corpora() at size().
  uint64_t begin_of(size_t corpus) const { return begins_[corpus]; }
  size_t corpora() const { return corpora_.size(); }
  /// Opens the first shard of each corpus (of up to 16), so that what is no corpus is known before the first step.
  void warm_up();
  /// out[count] := tokens first .. first + count; marks[count] (may be null) gets kBlank where it holds, else 0. Error
  /// bad_data naming shard and chunk.
  void read(uint64_t first, uint64_t count, uint32_t* out, uint8_t* marks = nullptr);
  size_t memory_bytes() const { return slots_.size() * slot_bytes_; }
  uint32_t end_of_document() const { return corpora_.front()->manifest().end_of_document; }

  /// Shards through all corpora.
  size_t shards() const { return shards_.size(); }
  size_t shard_of(uint64_t token) const;
  size_t corpus_of(size_t shard) const { return shards_[shard].corpus; }
  uint64_t first_token(size_t shard) const { return shards_[shard].first_token; }
  const ShardRecord& record(size_t shard) const { return *shards_[shard].record; }
  /// Where documents begin in a shard, and its tokens at the end. Valid until the next call of anything.
  const std::vector<uint64_t>& document_offsets(size_t shard);

 private:
  struct Shard {
    size_t corpus;
    const ShardRecord* record;
    uint64_t first_token;
    uint64_t first_chunk;  ///< chunks are numbered through all shards
    bool last;             ///< of its corpus
  };
  struct OpenShard {
    size_t shard = SIZE_MAX;
    std::unique_ptr<CorpusShard> file;
    uint64_t last_use = 0;
    std::vector<std::pair<uint64_t, uint64_t>> blank;
    std::vector<uint64_t> offsets;
  };
  struct Slot {
    uint64_t chunk = UINT64_MAX;
    uint64_t last_use = 0;
  };
  static constexpr size_t kOpenShards = 16;

  OpenShard& open_shard(size_t shard);
  const char* chunk_data(size_t shard, uint64_t chunk_in_shard);
  void blank_out(size_t shard, uint64_t first, uint64_t count, uint32_t* out, uint8_t* marks);

  std::vector<std::shared_ptr<const Corpus>> corpora_;
  HeldOut held_out_;
  std::vector<Shard> shards_;
  std::vector<uint64_t> begins_;
  uint64_t size_ = 0;
  uint64_t width_ = 2;
  std::vector<OpenShard> open_;
  uint64_t slot_bytes_ = 0;
  std::unique_ptr<char[]> memory_;
  std::vector<Slot> slots_;
  std::unordered_map<uint64_t, size_t> slot_of_;  ///< chunk -> slot
  uint64_t clock_ = 0;
};

}  // namespace capstan
