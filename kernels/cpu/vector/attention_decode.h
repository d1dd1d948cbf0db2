#pragma once
// Attention of a few queries over a cache (attention_decode.cpp); no dropout.

#include <cstddef>

#include "kernels/attention.h"

namespace capstan::kernels::CAPSTAN_ISA {

bool is_decoding(const AttentionShape& shape);
size_t decode_scratch(const AttentionShape& shape, int threads);
void decode(const AttentionArgs& args, int threads);

}  // namespace capstan::kernels::CAPSTAN_ISA
