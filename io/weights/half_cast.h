#pragma once
// Runs of float to half precision and back, by the processor's own instructions (F16C) where it has them; the bits are
// those of Float16 either way, but that the instructions make every NaN a quiet one.

#include <cstddef>

#include "kernels/types.h"

namespace capstan {

void cast_to_half(const float* src, Float16* dst, size_t count);
void cast_from_half(const Float16* src, float* dst, size_t count);

}  // namespace capstan
