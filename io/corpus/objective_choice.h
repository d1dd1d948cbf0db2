#pragma once
// Random choices of objectives: pure functions of (seed, sample, purpose, index), so a sample is masked alike on every
// rank and after every resume. An order of n things costs no memory: it is a keyed permutation.

#include <cstdint>
#include <vector>

#include "io/corpus/keyed_permutation.h"
#include "io/tokenizer/tokenizer.h"
#include "kernels/philox.h"

namespace capstan {

/// The choices of one sample. Two samples differ in `sample`.
class Choices {
 public:
  Choices(uint64_t seed, uint64_t sample) : seed_(seed), sample_(sample) {}
  /// 32 random bits; `purpose` below 256, index below 2^56.
  uint32_t bits(uint64_t purpose, uint64_t index) const { return philox_word(seed_, sample_, purpose << 56 | index); }
  /// Uniform in [0, 1).
  double unit(uint64_t purpose, uint64_t index) const { return bits(purpose, index) * 0x1p-32; }
  /// Uniform in [0, count).
  uint64_t below(uint64_t purpose, uint64_t index, uint64_t count) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(purpose, index)) * count) >> 32);
  }
  KeyedPermutation order(uint64_t purpose, uint64_t count) const {
    return KeyedPermutation(count, seed_ ^ 0x63686f696365ull, sample_ * 256 + purpose);
  }

 private:
  uint64_t seed_, sample_;
};

/// (vocabulary) whether a token begins a word: not a "##" piece; or, where no piece is marked so, one whose name or
/// text begins with a space, a line end or their stand-ins. Special tokens and ends of documents do.
std::vector<uint8_t> word_beginnings(const Tokenizer& tokenizer);

}  // namespace capstan
