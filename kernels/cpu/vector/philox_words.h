#pragma once
// The words of kernels/philox.h, many blocks at once: the same bits, about two cycles a word on 256-bit vectors. A
// block's counter is held as two 64-bit lanes of two vectors, [word 0 | word 1] and [word 2 | word 3]: one 32 x 32
// product of each gives both halves at once, and a round is two products, two swaps, two shifts and four xors.

#include "kernels/cpu/vector/simd.h"

namespace capstan::kernels::CAPSTAN_ISA {

constexpr int kPhiloxStep = 2 * kLanes;  ///< blocks that one call of philox_step makes

/// Block numbers of the lanes, in the order in which interleaving restores ascending blocks.
[[gnu::always_inline]] inline U64 philox_lane_blocks() {
#if defined(__AVX512F__)
  return U64{0, 4, 1, 5, 2, 6, 3, 7};
#elif defined(__AVX2__)
  return U64{0, 2, 1, 3};
#else
  return U64{0, 1};
#endif
}

/// words[0 .. 4 kPhiloxStep) = words of blocks [block, block + kPhiloxStep).
inline void philox_step(uint64_t key, uint64_t stream, uint64_t block, uint32_t* words) {
  constexpr int kPairs = 4, kBlocks = kLanes / 2;
  U64 low[kPairs], high[kPairs];
  for (int j = 0; j < kPairs; ++j) {
    low[j] = philox_lane_blocks() + (block + static_cast<uint64_t>(j * kBlocks));
    high[j] = U64{} + stream;
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  const U64 m0 = U64{} + uint64_t{0xD2511F53u}, m1 = U64{} + uint64_t{0xCD9E8D57u};
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const U64 key0 = U64{} + uint64_t{k0}, key1 = U64{} + uint64_t{k1};
#pragma GCC unroll 4
    for (int j = 0; j < kPairs; ++j) {
      const U64 a = multiply_low(low[j], m0), b = multiply_low(high[j], m1);
      low[j] = swap_halves(b) ^ (low[j] >> 32) ^ key0;
      high[j] = swap_halves(a) ^ (high[j] >> 32) ^ key1;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 4
  for (int j = 0; j < kPairs; ++j) {
    const U64 first = interleave_low(low[j], high[j]), second = interleave_high(low[j], high[j]);
    __builtin_memcpy(words + j * 4 * kBlocks, &first, sizeof first);
    __builtin_memcpy(words + j * 4 * kBlocks + kLanes, &second, sizeof second);
  }
}

/// The words of `count` logical elements from `index` on stand at the returned place in `buffer`, which must hold
/// count + 4 + 4 kPhiloxStep words.
inline const uint32_t* philox_words(uint64_t key, uint64_t stream, uint64_t index, int64_t count, uint32_t* buffer) {
  const int64_t skip = static_cast<int64_t>(index & 3u), blocks = (skip + count + 3) / 4;
  for (int64_t b = 0; b < blocks; b += kPhiloxStep) {
    philox_step(key, stream, (index >> 2) + static_cast<uint64_t>(b), buffer + 4 * b);
  }
  return buffer + skip;
}

/// As drop_threshold of kernels/philox.h.
inline uint32_t dropped_below(double probability) { return static_cast<uint32_t>(probability * 4294967296.0); }

}  // namespace capstan::kernels::CAPSTAN_ISA
