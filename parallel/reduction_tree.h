#pragma once
// The binary tree over ranks in which sums are formed: ((0+1)+(2+3)) + ((4+5)+(6+7)). Node [lo, lo + width) is the sum
// of its two halves; where the number of inputs is no power of two the missing leaves are simply absent, so 3 inputs
// give (0+1)+2. Each element is summed by the same additions whatever the length of the array or the place of the
// element in it, which is why an all-reduce in slices, a reduce-scatter and a fold of microbatches agree bitwise.
// Sums of bf16 and f16 are formed in f32 over the whole tree and rounded once. max carries a NaN of any input to the
// result. Rule for callers: out may be one of the inputs, exactly; it must not overlap one in part.

#include <cstddef>

#include "core/communicator.h"

namespace capstan {

/// out[count] := tree over inputs[0..ranks), each of `count` elements. f64, f32, bf16, f16, i64, i32.
void reduce_tree(void* out, const void* const* inputs, int ranks, size_t count, DType dtype, ReduceOp op);

/// Whether reduce_tree knows this element type.
constexpr bool reducible(DType t) {
  return t == DType::f64 || t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::i64 ||
         t == DType::i32;
}

}  // namespace capstan
