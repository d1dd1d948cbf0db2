#pragma once
// Prefix language model: the beginning of each document in a sample is read to both sides, the rest is predicted token
// by token. The fields of one sequence (objective.h), predicting what is next, and
//   prefix_ends    i32  for each token, where the prefix of its document ends in the sample: token i sees token j of
//   its
//                       document when j <= i or j < prefix_ends(i)
// loss_weights are 0 for targets inside the prefix. How long a prefix is, is drawn evenly from 0 to all but one of the
// document's tokens in the sample.

#include "io/corpus/objective.h"

namespace capstan {

class PrefixObjective final : public Objective {
 public:
  PrefixObjective(uint64_t seed, bool separate = true) : seed_(seed), separate_(separate), causal_(separate) {}
  std::vector<FieldSpec> fields(int64_t context) const override;
  int64_t window(int64_t context) const override { return context + 1; }
  SampleTally write(const TokenWindows& windows, const SampleFields& out) const override;

 private:
  uint64_t seed_;
  bool separate_;
  CausalObjective causal_;
};

}  // namespace capstan
