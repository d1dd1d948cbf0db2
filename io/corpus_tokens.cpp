#include "io/corpus_tokens.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {
namespace {

template <typename Stored>
void widen(const char* from, uint64_t first, uint64_t count, uint32_t* out) {
  const Stored* stored = reinterpret_cast<const Stored*>(from) + first;
  std::copy(stored, stored + count, out);
}

template <typename T>
T& least_recently_used(std::vector<T>& items) {
  return *std::min_element(items.begin(), items.end(), [](const T& a, const T& b) { return a.last_use < b.last_use; });
}

}  // namespace

CorpusTokens::CorpusTokens(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, uint64_t cache_bytes)
    : corpora_(std::move(corpora)) {
  if (corpora_.empty()) throw Error(ExitCode::config, "data.corpora: wanted at least one corpus directory, got none");
  const CorpusManifest& first = corpora_.front()->manifest();
  width_ = first.token_width();
  uint64_t chunks = 0;
  for (const auto& corpus : corpora_) {
    const CorpusManifest& manifest = corpus->manifest();
    if (manifest.tokenizer_hash != first.tokenizer_hash)
      throw Error::make(ExitCode::config,
                        "data.corpora: wanted one tokenizer, but {} was made with {} ({}) and {} with {} ({})",
                        corpora_.front()->directory().string(), first.tokenizer_name, first.tokenizer_hash,
                        corpus->directory().string(), manifest.tokenizer_name, manifest.tokenizer_hash);
    for (const ShardRecord& record : manifest.split(split).shards) {
      shards_.push_back({corpus.get(), &record, size_, chunks});
      size_ += record.tokens;
      chunks += record.chunks();
      slot_bytes_ = std::max(slot_bytes_, record.chunk_tokens * width_);
    }
  }
  const uint64_t slots = std::min(std::max<uint64_t>(cache_bytes / slot_bytes_, 4), chunks);
  memory_ = std::make_unique_for_overwrite<char[]>(slots * slot_bytes_);
  slots_.resize(slots);
  slot_of_.reserve(slots + 1);
  open_.resize(std::min(shards_.size(), kOpenShards));
}

void CorpusTokens::warm_up() {
  for (size_t i = 0; i < open_.size(); ++i) open_shard(i);
}

const CorpusShard& CorpusTokens::open_shard(size_t shard) {
  ++clock_;
  for (OpenShard& open : open_)
    if (open.shard == shard) {
      open.last_use = clock_;
      return *open.file;
    }
  OpenShard& place = least_recently_used(open_);
  const Shard& wanted = shards_[shard];
  place = {SIZE_MAX, nullptr, 0};
  place.file = std::make_unique<CorpusShard>(wanted.corpus->directory(), *wanted.record, wanted.corpus->manifest());
  place.shard = shard;
  place.last_use = clock_;
  return *place.file;
}

const char* CorpusTokens::chunk_data(size_t shard, uint64_t chunk_in_shard) {
  const uint64_t chunk = shards_[shard].first_chunk + chunk_in_shard;
  ++clock_;
  if (const auto found = slot_of_.find(chunk); found != slot_of_.end()) {
    slots_[found->second].last_use = clock_;
    return memory_.get() + found->second * slot_bytes_;
  }
  Slot& slot = least_recently_used(slots_);
  const size_t index = static_cast<size_t>(&slot - slots_.data());
  char* data = memory_.get() + index * slot_bytes_;
  slot_of_.erase(slot.chunk);
  slot = {};  // a read that throws leaves an empty slot
  open_shard(shard).read_chunk(chunk_in_shard, data);
  slot = {chunk, clock_};
  slot_of_[chunk] = index;
  return data;
}

void CorpusTokens::read(uint64_t first, uint64_t count, uint32_t* out) {
  CAPSTAN_CHECK(count <= size_ && first <= size_ - count, "tokens {} + {} of {}", first, count, size_);
  const auto after = std::upper_bound(shards_.begin(), shards_.end(), first,
                                      [](uint64_t token, const Shard& shard) { return token < shard.first_token; });
  size_t shard = static_cast<size_t>(after - shards_.begin()) - 1;
  while (count > 0) {
    const ShardRecord& record = *shards_[shard].record;
    const uint64_t inside = first - shards_[shard].first_token;
    const uint64_t chunk = inside / record.chunk_tokens, place = inside % record.chunk_tokens;
    const uint64_t there = std::min(record.chunk_tokens - place, record.tokens - inside);
    const uint64_t part = std::min(count, there);
    const char* data = chunk_data(shard, chunk);
    width_ == 2 ? widen<uint16_t>(data, place, part, out) : widen<uint32_t>(data, place, part, out);
    out += part;
    first += part;
    count -= part;
    if (inside + part == record.tokens) ++shard;
  }
}

}  // namespace capstan
