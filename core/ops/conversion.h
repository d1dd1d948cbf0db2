#pragma once
// Conversions between placements along one axis: the only ops that communicate.
//   Partial -> Replicate  all-reduce      Partial -> Shard(d)  reduce-scatter     Shard(d) -> Replicate  all-gather
//   Shard(a) -> Shard(b)  all-to-all      Replicate -> Shard(d)  local slice
// The adjoint of a conversion a -> b is one conversion from the gradient's actual placement to the dual of a.

#include "core/op.h"

namespace capstan {

/// Throws Error(internal) for a pair that has no conversion (anything -> Partial).
OpPtr make_conversion(Axis axis, Placement from, Placement to);

}  // namespace capstan
