#pragma once
// Sums (or maxima) of what several ranks sent, formed on one device in the binary tree over ranks:
// ((0+1)+(2+3)) + ((4+5)+(6+7)), missing leaves left out. The bits are those of parallel/reduction_tree.h, which does
// the same on a host: sums of bf16 and f16 are formed in f32 and rounded once, max carries a NaN to the result.

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

/// out[count] := tree over inputs 0..ranks-1. Input r lies at inputs + r * stride, but for that of rank `own`, which is
/// `own_input` (own < 0: none is elsewhere). out may be own_input, exactly. f64, f32, bf16, f16, i64, i32.
struct ReduceTreeArgs {
  const void* inputs = nullptr;
  size_t stride = 0;  ///< bytes
  int ranks = 0;
  int own = -1;
  const void* own_input = nullptr;
  void* out = nullptr;
  int64_t count = 0;
  DType dtype = DType::f32;
  bool max = false;
  Stream stream = nullptr;
};

using ReduceTree = void (*)(const ReduceTreeArgs&);

}  // namespace capstan::kernels
