#pragma once
// What a step begins with once the sum of its loss weights is known, and what happens to flat state once its gradients
// are complete: square sum, clip, AdamW. Everything that varies from step to step (learning rate, corrections, clip
// scale, skip) is data in step.scalars.

#include "core/recorder.h"

namespace capstan {

struct AdamWSpec {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};

/// Fills gradient_scale and the corrections of step.scalars from the f64 cell `weights`, the sum over all ranks.
/// own_weight: absent, or this rank's own sum, in whose place goes what weighs the squares of its own gradients.
void record_begin_step(Recorder& recorder, const AdamWSpec& spec, Value weights, Value own_weight);
/// Writes the sum of squares of x into the persistent f64 cell `sum`.
void record_square_sum(Recorder& recorder, Value x, Value sum);
/// The same times the f64 `weight`, with memory of its own, so that it may run beside the computation; `accumulate`:
/// added.
void record_weighted_square_sum(Recorder& recorder, Value x, Value weight, Value scratch, Value sum,
                                Accumulate accumulate);
/// Writes 1 into the f64 cell `flag` when this rank's own f64 `value` is not finite, else 0.
void record_not_finite(Recorder& recorder, Value value, Value flag);
/// Fills clip_scale, gradient_norm and skip of step.scalars from `sums` (any number of f64), added up in order.
void record_clip(Recorder& recorder, Value sums);
/// One run of flat state; working may be absent. All persistent, same element count.
void record_adamw(Recorder& recorder, const AdamWSpec& spec, Value gradient, Value master, Value moment1, Value moment2,
                  Value working);

}  // namespace capstan
