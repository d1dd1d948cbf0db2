#include "io/tokenizer/bpe_pair_table.h"

#include <algorithm>
#include <bit>
#include <random>

namespace capstan {

uint64_t random_hash_factor() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32 | device()) | 1;
}

PairTable::PairTable(size_t expected) : factor_(random_hash_factor()) {
  slots_.resize(std::bit_ceil(std::max<size_t>(16, expected * 2)));
  mask_ = slots_.size() - 1;
  shift_ = 64 - std::countr_zero(slots_.size());
}

void PairTable::put(uint32_t left, uint32_t right, uint32_t value) {
  if (used_ * 2 >= slots_.size()) grow();
  size_t at = place(left, right);
  while (slots_[at].value != kNone && (slots_[at].left != left || slots_[at].right != right)) at = (at + 1) & mask_;
  used_ += slots_[at].value == kNone;
  slots_[at] = {left, right, value};
}

void PairTable::grow() {
  PairTable larger(slots_.size());
  for (const Slot& slot : slots_)
    if (slot.value != kNone) larger.put(slot.left, slot.right, slot.value);
  *this = std::move(larger);
}

}  // namespace capstan
