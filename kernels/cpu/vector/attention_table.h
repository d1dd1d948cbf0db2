#pragma once
// Attention of one instruction set, as it enters the table.

#include <cstddef>

#include "kernels/attention.h"

namespace capstan::kernels::CAPSTAN_ISA {

size_t attention_scratch(const AttentionShape& shape);
void attention(const AttentionArgs& args);
size_t attention_backward_scratch(const AttentionShape& shape);
void attention_backward(const AttentionBackwardArgs& args);

}  // namespace capstan::kernels::CAPSTAN_ISA
