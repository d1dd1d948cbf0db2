#pragma once
// The loss: sum of weight x nll over tokens, added in double into a persistent cell. Its gradient is written over the
// logits and scaled by step.scalars' gradient_scale (1 / the step's global sum of weights), so masks, padding, data
// parallelism and accumulation never become a mean of means. Logits whose vocabulary is sharded stay sharded: each
// rank says three numbers a row, which are gathered.

#include "core/recorder.h"

namespace capstan {

struct CrossEntropyResult {
  Value nll;  ///< (batch, context) per token, unweighted
};

/// logits (batch, context, padded vocabulary), targets and weights (batch, context); loss_sum: a persistent f64 [1].
CrossEntropyResult cross_entropy(Recorder& recorder, Value logits, Value targets, Value weights, Value loss_sum,
                                 int64_t vocabulary);

}  // namespace capstan
