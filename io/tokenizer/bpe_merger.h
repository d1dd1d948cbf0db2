#pragma once
// BpeMerger: merges the symbols of one word. Up to kScan symbols lie in a small array that is searched for the least
// rank each time; more go through a queue. Holds scratch, so one a thread.

#include <span>
#include <vector>

#include "io/tokenizer/bpe_pair_table.h"

namespace capstan {

class BpeMerger {
 public:
  static constexpr size_t kScan = 64;

  /// Rank of each pair, and the result of each rank.
  BpeMerger(const PairTable& ranks, const std::vector<uint32_t>& results) : ranks_(ranks), results_(results) {}
  /// Symbols of a word of any length.
  void merge(std::span<const uint32_t> symbols, std::vector<uint32_t>& tokens);
  /// Likewise of at most kScan symbols whose ranks are known, ranks[i] of symbols i and i + 1. Both are overwritten.
  void merge(uint32_t* ids, uint32_t* ranks, size_t count, std::vector<uint32_t>& tokens) const;

 private:
  void queue(std::span<const uint32_t> symbols, std::vector<uint32_t>& tokens);
  void push(uint32_t left);

  /// A symbol in the list of those that are left; `next` of the last is kEnd, id of one merged away kGone.
  struct Node {
    uint32_t id, before, next;
  };
  const PairTable& ranks_;
  const std::vector<uint32_t>& results_;
  std::vector<Node> nodes_;
  std::vector<uint64_t> heap_;  ///< rank << 32 | place of the left symbol
};

}  // namespace capstan
