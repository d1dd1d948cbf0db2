#pragma once
// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A random number is a pure function of (key, counter): nothing is advanced, so any rank can compute the number that
// belongs to a logical element, and recomputation sees the same mask as the first time.

#include <array>
#include <cstdint>

namespace capstan {

using PhiloxBlock = std::array<uint32_t, 4>;

/// Ten rounds on one 128-bit counter. key: 64 bits (low, high).
constexpr PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  PhiloxBlock x{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * x[0], b = 0xCD9E8D57ull * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

/// The 32 random bits of logical element `index` in stream `stream`: word index % 4 of block index / 4.
constexpr uint32_t philox_word(uint64_t key, uint64_t stream, uint64_t index) {
  return philox(key, index >> 2, stream)[index & 3u];
}

/// Uniform in [0, 1) with 24 bits.
constexpr float unit_float(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// A dropped element is one whose word is below this; p in [0, 1).
constexpr uint32_t drop_threshold(double p) { return static_cast<uint32_t>(p * 4294967296.0); }

}  // namespace capstan
