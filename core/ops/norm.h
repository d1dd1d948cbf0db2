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

}  // namespace capstan
