#pragma once
// Own attention for the CUDA backend: everything of kernels/attention.h in f32, bf16 and f16, heads up to 256 wide, for
// the calls that the library's attention does not cover (documents, biases, dropout, blocks of longer sequences). The
// same call gives the same bits: no sum depends on the order in which blocks run. Calls only enqueue; scratch is sized
// by the shape alone and needs no contents.

#include <cstddef>

#include "kernels/attention.h"

namespace capstan::kernels::cuda {

size_t attention_own_scratch(const AttentionShape& shape);
void attention_own(const AttentionArgs& args);
size_t attention_own_backward_scratch(const AttentionShape& shape);
void attention_own_backward(const AttentionBackwardArgs& args);

/// A few queries over a long cache: keys are shared out over blocks. attention_own takes this way when it fits.
bool is_attention_decode(const AttentionShape& shape);
size_t attention_decode_scratch(const AttentionShape& shape);
void attention_decode(const AttentionArgs& args);

}  // namespace capstan::kernels::cuda
