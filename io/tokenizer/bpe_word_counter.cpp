#include "io/tokenizer/bpe_word_counter.h"

#include <xxhash.h>

#include "io/tokenizer/bpe_pair_table.h"

namespace capstan {
namespace {

constexpr size_t kFirstSlots = 1 << 12, kBlock = size_t{1} << 20;

}  // namespace

WordCounter::WordCounter() : factor_(random_hash_factor()), short_(kFirstSlots), long_(kFirstSlots) {}

void WordCounter::add(std::string_view text, std::span<const uint32_t> ends) {
  size_t begin = 0;
  for (const uint32_t end : ends) {
    if (end != begin) add(text.substr(begin, end - begin), 1, text.size() - begin);
    begin = end;
  }
}

void WordCounter::add(std::string_view word, uint64_t count, size_t readable) {
  if (word.size() <= WordCache::kShortWord)
    add_short(WordCache::key_of(word.data(), word.size(), readable), word.size(), count);
  else
    add_long(word, count);
}

void WordCounter::add(const WordCounter& other) {
  other.each([&](std::string_view word, uint64_t count) { add(word, count, word.size()); });
}

void WordCounter::each(const std::function<void(std::string_view, uint64_t)>& visit) const {
  for (const Short& slot : short_) {
    if (slot.count == 0) continue;
    char text[16];
    std::memcpy(text, &slot.key, 16);
    visit({text, static_cast<size_t>(slot.key.high >> 56)}, slot.count);
  }
  for (const Long& slot : long_)
    if (slot.count != 0) visit({slot.text, slot.size}, slot.count);
}

size_t WordCounter::place(Key key) const {
  uint64_t hash = (key.low ^ key.high >> 29) * factor_ + key.high * (factor_ ^ 0x5851f42d4c957f2c);
  hash = (hash ^ hash >> 32) * factor_;
  return (hash >> 20) & (short_.size() - 1);
}

void WordCounter::add_short(Key key, size_t size, uint64_t count) {
  size_t at = place(key);
  while (short_[at].count != 0 && !(short_[at].key == key)) at = (at + 1) & (short_.size() - 1);
  const bool fresh = short_[at].count == 0;
  short_[at].key = key;
  short_[at].count += count;
  if (!fresh) return;
  bytes_ += size;
  if (++short_used_ * 2 > short_.size()) grow_short();
}

void WordCounter::grow_short() {
  std::vector<Short> old(short_.size() * 2);
  old.swap(short_);
  for (const Short& slot : old) {
    if (slot.count == 0) continue;
    size_t to = place(slot.key);
    while (short_[to].count != 0) to = (to + 1) & (short_.size() - 1);
    short_[to] = slot;
  }
}

void WordCounter::add_long(std::string_view word, uint64_t count) {
  const uint64_t hash = XXH3_64bits_withSeed(word.data(), word.size(), factor_);
  size_t at = hash & (long_.size() - 1);
  const auto differs = [&](const Long& slot) {
    return slot.hash != hash || std::string_view(slot.text, slot.size) != word;
  };
  while (long_[at].count != 0 && differs(long_[at])) at = (at + 1) & (long_.size() - 1);
  if (long_[at].count != 0) {
    long_[at].count += count;
    return;
  }
  long_[at] = {keep(word), word.size(), hash, count};
  bytes_ += word.size();
  if (++long_used_ * 2 > long_.size()) grow_long();
}

void WordCounter::grow_long() {
  std::vector<Long> old(long_.size() * 2);
  old.swap(long_);
  for (const Long& slot : old) {
    if (slot.count == 0) continue;
    size_t to = slot.hash & (long_.size() - 1);
    while (long_[to].count != 0) to = (to + 1) & (long_.size() - 1);
    long_[to] = slot;
  }
}

const char* WordCounter::keep(std::string_view word) {
  if (word.size() > kBlock / 4) {
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(word.size()));
    std::memcpy(blocks_.back().get(), word.data(), word.size());
    return blocks_.back().get();
  }
  if (word.size() > block_left_) {
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(kBlock));
    block_at_ = blocks_.back().get();
    block_left_ = kBlock;
  }
  char* kept = block_at_;
  std::memcpy(kept, word.data(), word.size());
  block_at_ += word.size();
  block_left_ -= word.size();
  return kept;
}

}  // namespace capstan
