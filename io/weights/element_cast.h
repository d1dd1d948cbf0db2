#pragma once
// Between the floating element types of files: f64, f32, bf16, f16. Narrowing rounds to nearest even; widening is
// exact, so bf16 -> f32 -> bf16 gives the same bits. Rule for callers: cast_elements counts finite values that became
// infinite (f16 ends at 65504); who writes weights must not let that pass in silence.

#include <cstddef>

#include "kernels/types.h"

namespace capstan {

/// Whether weights may be stored in it.
constexpr bool is_weight_dtype(DType dtype) { return is_floating(dtype); }

/// dst[i] = src[i] as the other type; no overlap unless the types are equal. Returns how many finite values overflowed.
size_t cast_elements(const void* src, DType from, void* dst, DType to, size_t count);

}  // namespace capstan
