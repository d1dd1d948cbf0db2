#pragma once
// TextSet: which texts were seen, by their xxh3-128, for dropping exact duplicates. Takes 19 to 24 bytes a text: 256
// open-addressing tables, chosen by the first byte of the hash, are kept in the order of their hashes (so a search ends
// early even in a table that is 85% full) and grow by a quarter, one table at a time. Two different texts of one hash
// would be taken for duplicates: with 1e10 texts, one chance in 1e18.

#include <array>
#include <cstdint>
#include <vector>

#include "io/checkpoint/digest.h"

namespace capstan {

class TextSet {
 public:
  /// True when it was not there before.
  bool insert(const Digest128& text);
  uint64_t size() const;
  uint64_t memory_bytes() const;

 private:
  struct Table {
    std::vector<Digest128> slots;  ///< {0, 0}: free
    uint64_t used = 0;
    uint64_t homes = 0;  ///< slots where a run may begin; the few behind them take what overflows
  };
  static uint64_t home(const Table& table, const Digest128& key);
  static bool insert_into(Table& table, Digest128 key);
  static void grow(Table& table);

  std::array<Table, 256> tables_;
};

}  // namespace capstan
