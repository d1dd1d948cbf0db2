#pragma once
// Layer norm and RMS norm with the residual addition fused in front (formulas in kernels/norm.h).

#include "core/recorder.h"

namespace capstan {

struct NormResult {
  Value y;
  Value sum;  ///< x + residual, or x where there was none: the residual stream from here on
};

/// residual and bias may be absent. rms takes no bias.
NormResult norm(Recorder& recorder, Value x, Value residual, Value weight, Value bias, bool rms, double epsilon);

/// RMS norm of each head of x (..., heads * size) on its own; weight [size] is shared by all.
Value norm_heads(Recorder& recorder, Value x, Value weight, int64_t heads, double epsilon);

}  // namespace capstan
