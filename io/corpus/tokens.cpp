#include "io/corpus/tokens.h"

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
  for (size_t c = 0; c < corpora_.size(); ++c) {
    const auto& corpus = corpora_[c];
    const CorpusManifest& manifest = corpus->manifest();
    if (manifest.tokenizer_hash != first.tokenizer_hash)
      throw Error::make(ExitCode::config,
                        "data.corpora: wanted one tokenizer, but {} was made with {} ({}) and {} with {} ({})",
                        corpora_.front()->directory().string(), first.tokenizer_name, first.tokenizer_hash,
                        corpus->directory().string(), manifest.tokenizer_name, manifest.tokenizer_hash);
    begins_.push_back(size_);
    const std::vector<ShardRecord>& records = manifest.split(split).shards;
    for (const ShardRecord& record : records) {
      shards_.push_back({c, &record, size_, chunks, &record == &records.back()});
      size_ += record.tokens;
      chunks += record.chunks();
      slot_bytes_ = std::max(slot_bytes_, record.chunk_tokens * width_);
    }
  }
  begins_.push_back(size_);
  if (split == Split::train) held_out_ = HeldOut(corpora_);
  const uint64_t slots = std::min(std::max<uint64_t>(cache_bytes / slot_bytes_, 4), chunks);
  memory_ = std::make_unique_for_overwrite<char[]>(slots * slot_bytes_);
  slots_.resize(slots);
  slot_of_.reserve(slots + 1);
  open_.resize(std::min(shards_.size(), kOpenShards));
}

void CorpusTokens::warm_up() {
  size_t opened = 0;
  for (size_t i = 0; i < shards_.size() && opened < open_.size(); ++i)
    if (i == 0 || shards_[i].corpus != shards_[i - 1].corpus) open_shard(i), ++opened;
}

CorpusTokens::OpenShard& CorpusTokens::open_shard(size_t shard) {
  ++clock_;
  for (OpenShard& open : open_)
    if (open.shard == shard) {
      open.last_use = clock_;
      return open;
    }
  OpenShard& place = least_recently_used(open_);
  const Shard& wanted = shards_[shard];
  const Corpus& corpus = *corpora_[wanted.corpus];
  place = {};
  place.file = std::make_unique<CorpusShard>(corpus.directory(), *wanted.record, corpus.manifest());
  if (held_out_.concerns(wanted.corpus)) place.blank = held_out_.runs(wanted.corpus, *place.file, wanted.last);
  place.shard = shard;
  place.last_use = clock_;
  return place;
}

const std::vector<uint64_t>& CorpusTokens::document_offsets(size_t shard) {
  OpenShard& open = open_shard(shard);
  if (open.offsets.empty()) open.offsets = open.file->read_document_offsets();
  return open.offsets;
}

size_t CorpusTokens::shard_of(uint64_t token) const {
  CAPSTAN_CHECK(token < size_, "token {} of {}", token, size_);
  const auto after = std::upper_bound(shards_.begin(), shards_.end(), token,
                                      [](uint64_t wanted, const Shard& shard) { return wanted < shard.first_token; });
  return static_cast<size_t>(after - shards_.begin()) - 1;
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
  auto entry = slot_of_.extract(slot.chunk);  // used again: a chunk that takes another's place allocates nothing
  slot = {};                                  // a read that throws leaves an empty slot
  open_shard(shard).file->read_chunk(chunk_in_shard, data);
  slot = {chunk, clock_};
  if (entry) {
    entry.key() = chunk, entry.mapped() = index;
    slot_of_.insert(std::move(entry));
  } else {
    slot_of_[chunk] = index;
  }
  return data;
}

/// `first` counts from the beginning of the shard.
void CorpusTokens::blank_out(size_t shard, uint64_t first, uint64_t count, uint32_t* out, uint8_t* marks) {
  if (!held_out_.concerns(shards_[shard].corpus)) return;
  const auto& runs = open_shard(shard).blank;
  auto run = std::upper_bound(runs.begin(), runs.end(), first,
                              [](uint64_t token, const auto& candidate) { return token < candidate.second; });
  for (; run != runs.end() && run->first < first + count; ++run) {
    const uint64_t from = std::max(run->first, first) - first, to = std::min(run->second, first + count) - first;
    std::fill(out + from, out + to, end_of_document());
    if (marks) std::fill(marks + from, marks + to, static_cast<uint8_t>(kBlank));
  }
}

void CorpusTokens::read(uint64_t first, uint64_t count, uint32_t* out, uint8_t* marks) {
  CAPSTAN_CHECK(count <= size_ && first <= size_ - count, "tokens {} + {} of {}", first, count, size_);
  if (marks) std::fill(marks, marks + count, uint8_t{0});
  for (size_t shard = count > 0 ? shard_of(first) : 0; count > 0;) {
    const ShardRecord& record = *shards_[shard].record;
    const uint64_t inside = first - shards_[shard].first_token;
    const uint64_t chunk = inside / record.chunk_tokens, place = inside % record.chunk_tokens;
    const uint64_t there = std::min(record.chunk_tokens - place, record.tokens - inside);
    const uint64_t part = std::min(count, there);
    const char* data = chunk_data(shard, chunk);
    width_ == 2 ? widen<uint16_t>(data, place, part, out) : widen<uint32_t>(data, place, part, out);
    blank_out(shard, inside, part, out, marks);
    out += part;
    if (marks) marks += part;
    first += part;
    count -= part;
    if (inside + part == record.tokens) ++shard;
  }
}

}  // namespace capstan
