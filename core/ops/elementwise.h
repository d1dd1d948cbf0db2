#pragma once
// Addition, scaling, casts, and dropout with an optional residual.

#include "core/recorder.h"

namespace capstan {

Value add(Recorder& recorder, Value a, Value b);
Value scale(Recorder& recorder, Value x, double factor);
Value cast(Recorder& recorder, Value x, DType to);
/// y = dropout(x) (+ residual). probability 0 and no residual returns x. `site` tells the dropouts of a model apart.
Value dropout(Recorder& recorder, Value x, Value residual, double probability, uint64_t site);

/// Ops that passes record themselves: a cast; zeros into a tensor that has a place (no input); y (=|+=) x, added when
/// the node accumulates.
OpPtr make_cast(DType to);
OpPtr make_clear();
OpPtr make_accumulate();

/// target (a persistent tensor) := a + b, for the summation tree of microbatches.
void add_into(Recorder& recorder, Value a, Value b, Value target);
void copy_into(Recorder& recorder, Value x, Value target);

}  // namespace capstan
