#pragma once
// Rotary position embedding (Su et al., "RoFormer", 2021) on the first `rotary_dims` dims of each head:
//   (a, b) -> (a cos t - b sin t, a sin t + b cos t),  t = position / base^(2i / rotary_dims) / scaling, pair i
// pairs are (i, i + rotary_dims/2) (half-split) or (2i, 2i+1) (interleaved). backward: the inverse rotation.
// Angles are formed in double and rounded once, so that long positions stay exact.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

struct RotaryArgs {
  const int32_t* positions = nullptr;  ///< [rows]
  const void* x = nullptr;             ///< [rows, heads, head_size], rows `stride` elements apart
  void* y = nullptr;                   ///< may be x; same stride
  int64_t rows = 0, heads = 0, head_size = 0, rotary_dims = 0, stride = 0;
  double base = 10000.0, scaling = 1.0;
  bool interleaved = false;
  bool backward = false;
  DType dtype = DType::f32;
};

}  // namespace capstan::kernels
