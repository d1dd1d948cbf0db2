#pragma once
// CorpusTokens: one split of several corpora as a single line of tokens, corpus after corpus, shard after shard. Keeps
// a fixed number of verified chunks in memory and a few shards open; both are allocated at the start, so that reading
// allocates nothing large. Used by one thread.

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "io/corpus.h"
#include "io/corpus_shard.h"

namespace capstan {

class CorpusTokens {
 public:
  /// The corpora must have the same tokenizer. Error config.
  CorpusTokens(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, uint64_t cache_bytes);

  uint64_t size() const { return size_; }
  /// Opens the first shards, so that a bad one is known before the first step.
  void warm_up();
  /// out[count] := tokens first .. first + count. Error bad_data naming shard and chunk.
  void read(uint64_t first, uint64_t count, uint32_t* out);
  size_t memory_bytes() const { return slots_.size() * slot_bytes_; }

 private:
  struct Shard {
    const Corpus* corpus;
    const ShardRecord* record;
    uint64_t first_token;
    uint64_t first_chunk;  ///< chunks are numbered through all shards
  };
  struct OpenShard {
    size_t shard = SIZE_MAX;
    std::unique_ptr<CorpusShard> file;
    uint64_t last_use = 0;
  };
  struct Slot {
    uint64_t chunk = UINT64_MAX;
    uint64_t last_use = 0;
  };
  static constexpr size_t kOpenShards = 16;

  const CorpusShard& open_shard(size_t shard);
  const char* chunk_data(size_t shard, uint64_t chunk_in_shard);

  std::vector<std::shared_ptr<const Corpus>> corpora_;
  std::vector<Shard> shards_;
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
