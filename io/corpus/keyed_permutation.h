#pragma once
// A permutation of 0..size-1 chosen by a key: the order in which an epoch visits its samples. The clever thing: it is
// computed, never stored. A Feistel network permutes the smallest even number of bits that covers the range, and
// outputs beyond the range are fed in again until one falls inside (cycle walking, fewer than 4 rounds expected), so
// any position is found in constant memory and time, at any cursor, on any rank. It can be walked backwards too, so
// whether an element was visited before a position needs no memory of what was visited.
// The mapping is part of what a checkpoint promises: it may never change (tests hold golden values).

#include <array>
#include <cstddef>
#include <cstdint>

namespace capstan {

class KeyedPermutation {
 public:
  /// Key: (seed, epoch). size >= 1.
  KeyedPermutation(uint64_t size, uint64_t seed, uint64_t epoch);

  uint64_t size() const { return size_; }
  /// The element at `position`, both in [0, size).
  uint64_t operator()(uint64_t position) const;
  /// The position at which `element` is visited: inverse(p(i)) == i.
  uint64_t inverse(uint64_t element) const;

 private:
  static constexpr int kRounds = 8;
  uint64_t mixed(size_t round, uint64_t half) const;
  uint64_t pass(uint64_t value) const;
  uint64_t pass_back(uint64_t value) const;

  uint64_t size_;
  int half_bits_;
  uint64_t half_mask_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace capstan
