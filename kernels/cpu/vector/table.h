#pragma once
// The kernels of this folder, as they enter the table of one instruction set.

#include "kernels/activation.h"
#include "kernels/backend.h"
#include "kernels/cpu/vector/attention_table.h"
#include "kernels/cpu/vector/gemm.h"

namespace capstan::kernels::CAPSTAN_ISA {

void activation(const ActivationArgs& args);
void activation_backward(const ActivationBackwardArgs& args);
void norm(const NormArgs& args);
size_t norm_backward_scratch(int64_t rows, int64_t width, DType dtype);
void norm_backward(const NormBackwardArgs& args);
void rotary(const RotaryArgs& args);
void embedding(const EmbeddingArgs& args);
size_t embedding_backward_scratch(int64_t rows, int64_t entries);
void embedding_backward(const EmbeddingBackwardArgs& args);
void dropout(const DropoutArgs& args);
void cross_entropy(const CrossEntropyArgs& args);
void cross_entropy_backward(const CrossEntropyBackwardArgs& args);
void cross_entropy_statistics(const CrossEntropyStatisticsArgs& args);
void cross_entropy_combine(const CrossEntropyCombineArgs& args);
void add(const AddArgs& args);
void scale(const ScaleArgs& args);
void cast(const CastArgs& args);
void cache_append(const CacheAppendArgs& args);
size_t square_sum_scratch();
void square_sum(const SquareSumArgs& args);
void clip(const ClipArgs& args);
void adamw(const AdamWArgs& args);
size_t bias_gradient_scratch(int64_t rows, int64_t n);
void bias_gradient(const BiasGradientArgs& args);
GemmKernels gemm_kernels();

}  // namespace capstan::kernels::CAPSTAN_ISA
