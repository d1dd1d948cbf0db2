#pragma once
// PairTable: (left id, right id) -> a number, by open addressing. The hash has a random factor, so no file can make it
// slow; what is found does not depend on it.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace capstan {

class PairTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit PairTable(size_t expected = 0);
  /// Replaces what was there. `value` is not kNone.
  void put(uint32_t left, uint32_t right, uint32_t value);
  /// kNone when the pair is not there.
  uint32_t find(uint32_t left, uint32_t right) const {
    for (size_t at = place(left, right);; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.value == kNone || (slot.left == left && slot.right == right)) return slot.value;
    }
  }

 private:
  struct Slot {
    uint32_t left = 0, right = 0, value = kNone;
  };
  size_t place(uint32_t left, uint32_t right) const {
    return ((static_cast<uint64_t>(left) << 32 | right) * factor_) >> shift_;
  }
  void grow();

  uint64_t factor_;
  int shift_ = 0;
  size_t mask_ = 0, used_ = 0;
  std::vector<Slot> slots_;
};

/// A large odd number, another in every table.
uint64_t random_hash_factor();

}  // namespace capstan
