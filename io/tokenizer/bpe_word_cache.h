#pragma once
// WordCache: words and their tokens, in 3 MiB. A word of up to 15 bytes and 3 tokens (nearly all of running text) is
// one half of a cache line, found by two loads, a hash and a comparison; up to 62 bytes and 16 tokens have a second
// table; others are not kept. A new word takes the place of an old one. One thread at a time.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

namespace capstan {

static_assert(std::endian::native == std::endian::little, "keys are loaded as little-endian numbers");

namespace word_cache_detail {

struct ByteMask {
  uint64_t low, high;
};
/// By size: the bytes of a word in two times eight. A table, since a branch on a word's size is rarely foreseen.
constexpr std::array<ByteMask, 16> kMasks = [] {
  std::array<ByteMask, 16> masks{};
  for (size_t byte = 0; byte < 16; ++byte)
    for (size_t size = byte + 1; size < 16; ++size)
      (byte < 8 ? masks[size].low : masks[size].high) |= uint64_t{0xff} << 8 * (byte % 8);
  return masks;
}();

}  // namespace word_cache_detail

class WordCache {
 public:
  static constexpr size_t kShortWord = 15, kLongWord = 62, kMostTokens = 16;

  /// A short word with its size: equal keys are equal words.
  struct Key {
    uint64_t low, high;
    bool operator==(const Key& other) const { return ((low ^ other.low) | (high ^ other.high)) == 0; }
  };

  /// Of a word of 1 .. 15 bytes; `readable`: bytes that may be read from where it begins.
  static Key key_of(const char* word, size_t size, size_t readable) {
    if (readable < 16) return key_of_end(word, size);
    uint64_t halves[2];
    std::memcpy(halves, word, 16);
    const word_cache_detail::ByteMask& mask = word_cache_detail::kMasks[size];
    return {halves[0] & mask.low, (halves[1] & mask.high) | static_cast<uint64_t>(size) << 56};
  }

  /// Writes the word's tokens (up to kMostTokens, always in reach of `tokens`) and says how many; 0 when it is not
  /// here.
  size_t find(Key key, uint32_t* tokens) const {
    const Short* pair = &short_[2 * place(key)];
    const Short& entry = pair[!(pair[0].key == key)];
    if (!(entry.key == key)) return 0;
    std::memcpy(tokens, entry.tokens, sizeof entry.tokens);
    return entry.count;
  }

  size_t find(std::string_view word, uint32_t* tokens) const {
    if (word.size() <= kShortWord)
      if (const size_t count = find(key_of(word.data(), word.size(), word.size()), tokens)) return count;
    if (word.size() > kLongWord) return 0;
    const Long& entry = long_[place(word)];
    if (entry.size != word.size() || std::memcmp(entry.text, word.data(), word.size()) != 0) return 0;
    std::copy_n(entry.tokens, entry.count, tokens);
    return entry.count;
  }

  void put(std::string_view word, std::span<const uint32_t> tokens) {
    if (word.empty() || word.size() > kLongWord || tokens.empty() || tokens.size() > kMostTokens) return;
    if (word.size() <= kShortWord && tokens.size() <= 3) {
      const Key key = key_of(word.data(), word.size(), word.size());
      Short* pair = &short_[2 * place(key)];
      pair[1] = pair[0];
      pair[0].key = key;
      pair[0].count = static_cast<uint32_t>(tokens.size());
      std::copy(tokens.begin(), tokens.end(), pair[0].tokens);
      return;
    }
    Long& entry = long_[place(word)];
    entry.size = static_cast<uint8_t>(word.size());
    entry.count = static_cast<uint8_t>(tokens.size());
    std::memcpy(entry.text, word.data(), word.size());
    std::copy(tokens.begin(), tokens.end(), entry.tokens);
  }

 private:
  struct alignas(32) Short {
    Key key{};
    uint32_t tokens[3]{};
    uint32_t count = 0;
  };
  struct alignas(64) Long {
    uint8_t size = 0, count = 0;
    char text[kLongWord]{};
    uint32_t tokens[kMostTokens]{};
  };
  static constexpr int kShortBits = 15, kLongBits = 13;  // 2^15 pairs of 32 bytes, 2^13 of 128
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15, kOther = 0xd6e8feb86659fd93;

  template <typename T>
  static uint64_t load(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  /// The same key, without a look beyond the word: by two loads that overlap.
  static Key key_of_end(const char* word, size_t size) {
    const uint64_t length = static_cast<uint64_t>(size) << 56;
    if (size > 8) return {load<uint64_t>(word), load<uint64_t>(word + size - 8) >> 8 * (16 - size) | length};
    if (size == 8) return {load<uint64_t>(word), length};
    if (size >= 4) return {load<uint32_t>(word) | load<uint32_t>(word + size - 4) << 8 * (size - 4), length};
    const auto byte = [&](size_t i) { return load<uint8_t>(word + i) << 8 * i; };
    return {byte(0) | byte(size / 2) | byte(size - 1), length};
  }
  static size_t place(Key key) {
    uint64_t hash = key.low * kFactor + key.high * kOther;
    hash = (hash ^ hash >> 32) * kFactor;
    return hash >> (64 - kShortBits);
  }
  static size_t place(std::string_view word) {
    uint64_t hash = word.size();
    for (size_t at = 0; at < word.size(); at += 8) {
      uint64_t bytes = 0;
      std::memcpy(&bytes, word.data() + at, std::min<size_t>(8, word.size() - at));
      hash = (hash ^ bytes) * kFactor;
      hash ^= hash >> 32;
    }
    return hash * kOther >> (64 - kLongBits);
  }

  std::unique_ptr<Short[]> short_ = std::make_unique<Short[]>(size_t{2} << kShortBits);
  std::unique_ptr<Long[]> long_ = std::make_unique<Long[]>(size_t{1} << kLongBits);
};

}  // namespace capstan
