#pragma once
// WordCounter: how often each word occurs. Words of up to 15 bytes are their own key in the table; longer ones are kept
// in blocks of memory. The order in which words come out means nothing. One thread at a time.

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "io/tokenizer/bpe_word_cache.h"

namespace capstan {

class WordCounter {
 public:
  WordCounter();
  /// All words of a text, which end at `ends`.
  void add(std::string_view text, std::span<const uint32_t> ends);
  void add(std::string_view word, uint64_t count, size_t readable);
  void add(const WordCounter& other);
  void each(const std::function<void(std::string_view word, uint64_t count)>& visit) const;
  uint64_t size() const { return short_used_ + long_used_; }
  uint64_t bytes() const { return bytes_; }  ///< of the distinct words

 private:
  using Key = WordCache::Key;
  struct Short {
    Key key{};  // of an empty slot: all zero
    uint64_t count = 0;
  };
  struct Long {
    const char* text = nullptr;
    uint64_t size = 0, hash = 0, count = 0;
  };
  void add_short(Key key, size_t size, uint64_t count);
  void add_long(std::string_view word, uint64_t count);
  const char* keep(std::string_view word);
  size_t place(Key key) const;
  void grow_short();
  void grow_long();

  uint64_t factor_;
  std::vector<Short> short_;
  std::vector<Long> long_;
  size_t short_used_ = 0, long_used_ = 0;
  uint64_t bytes_ = 0;
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t block_left_ = 0;
  char* block_at_ = nullptr;
};

}  // namespace capstan
