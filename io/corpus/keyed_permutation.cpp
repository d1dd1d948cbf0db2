#include "io/corpus/keyed_permutation.h"

#include <bit>

#include "core/error.h"
#include "kernels/philox.h"

namespace capstan {
namespace {

/// A bijective mixer of 64 bits (the finaliser of MurmurHash3).
constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

}  // namespace

KeyedPermutation::KeyedPermutation(uint64_t size, uint64_t seed, uint64_t epoch) : size_(size) {
  CAPSTAN_CHECK(size >= 1, "a permutation of nothing");
  const int bits = std::bit_width(size - 1);
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
  half_mask_ = (uint64_t{1} << half_bits_) - 1;
  for (int round = 0; round < kRounds; ++round) {
    const PhiloxBlock words = philox(seed, epoch, static_cast<uint64_t>(round));
    keys_[static_cast<size_t>(round)] = words[0] | static_cast<uint64_t>(words[1]) << 32;
  }
}

uint64_t KeyedPermutation::mixed(size_t round, uint64_t half) const {
  // The top bits of the mixed word: all of them depend on every bit of `half` and of the key.
  const uint64_t key = keys_[round];
  return mix((half + key) * 0x9e3779b97f4a7c15ull ^ key) >> (64 - half_bits_);
}

uint64_t KeyedPermutation::pass(uint64_t value) const {
  uint64_t left = value >> half_bits_, right = value & half_mask_;
  for (size_t round = 0; round < kRounds; ++round) {
    const uint64_t next = left ^ mixed(round, right);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t KeyedPermutation::pass_back(uint64_t value) const {
  uint64_t left = value >> half_bits_, right = value & half_mask_;
  for (size_t round = kRounds; round-- > 0;) {
    const uint64_t before = right ^ mixed(round, left);
    right = left;
    left = before;
  }
  return left << half_bits_ | right;
}

uint64_t KeyedPermutation::operator()(uint64_t position) const {
  CAPSTAN_CHECK(position < size_, "position {} of a permutation of {}", position, size_);
  uint64_t value = pass(position);
  while (value >= size_) value = pass(value);
  return value;
}

uint64_t KeyedPermutation::inverse(uint64_t element) const {
  CAPSTAN_CHECK(element < size_, "element {} of a permutation of {}", element, size_);
  uint64_t value = pass_back(element);
  while (value >= size_) value = pass_back(value);
  return value;
}

}  // namespace capstan
