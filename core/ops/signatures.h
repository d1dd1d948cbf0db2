#pragma once
// Helpers for placement rules. "Alike" ops treat every element of the leading dims on its own, so a shard of such a dim
// passes through; statistics and other per-row outputs follow with the dims they have.

#include <vector>

#include "core/op.h"

namespace capstan {

/// Everything Replicate.
inline Signature all_replicate(size_t inputs, size_t outputs) {
  return {std::vector<Placement>(inputs, Replicate), std::vector<Placement>(outputs, Replicate)};
}

/// For each dim < dims: the operands marked true are sharded on it, the others replicated. Plus all Replicate.
inline std::vector<Signature> alike_on_leading(int dims, const std::vector<bool>& inputs,
                                               const std::vector<bool>& outputs) {
  std::vector<Signature> signatures{all_replicate(inputs.size(), outputs.size())};
  for (int dim = 0; dim < dims; ++dim) {
    Signature signature = all_replicate(inputs.size(), outputs.size());
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i]) signature.inputs[i] = Shard(dim);
    for (size_t i = 0; i < outputs.size(); ++i)
      if (outputs[i]) signature.outputs[i] = Shard(dim);
    signatures.push_back(signature);
  }
  return signatures;
}

inline int rank_of(const InputSpec& input) { return static_cast<int>(input.spec.shape.size()); }

}  // namespace capstan
