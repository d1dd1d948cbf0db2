#pragma once
// The kernels of the reference backend: plain loops over the formulas of the contract headers, every sum in ascending
// order, one thread. They are the oracle; speed is no aim, but the loops follow memory so that a small model trains in
// fp64. Nothing is allocated by a call; temporary rows live in the caller's scratch.

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace capstan::kernels::reference {

std::unique_ptr<PreparedMatmul> prepare_matmul(const MatmulShape& shape);
bool fuses(const MatmulShape& shape);
size_t bias_gradient_scratch(int64_t rows, int64_t n);
void bias_gradient(const BiasGradientArgs& args);

void activation(const ActivationArgs& args);
void activation_backward(const ActivationBackwardArgs& args);

void norm(const NormArgs& args);
size_t norm_backward_scratch(int64_t rows, int64_t width, DType dtype);
void norm_backward(const NormBackwardArgs& args);

size_t attention_scratch(const AttentionShape& shape);
void attention(const AttentionArgs& args);
size_t attention_backward_scratch(const AttentionShape& shape);
void attention_backward(const AttentionBackwardArgs& args);

void rotary(const RotaryArgs& args);

void embedding(const EmbeddingArgs& args);
size_t embedding_backward_scratch(int64_t rows, int64_t entries);
void embedding_backward(const EmbeddingBackwardArgs& args);

void dropout(const DropoutArgs& args);

void cross_entropy(const CrossEntropyArgs& args);
void cross_entropy_backward(const CrossEntropyBackwardArgs& args);
void cross_entropy_statistics(const CrossEntropyStatisticsArgs& args);
void cross_entropy_combine(const CrossEntropyCombineArgs& args);

void copy(const CopyArgs& args);
void fill(const FillArgs& args);
void add(const AddArgs& args);
void scale(const ScaleArgs& args);
void cast(const CastArgs& args);
void not_finite(const NotFiniteArgs& args);
void cache_append(const CacheAppendArgs& args);

void begin_step(const BeginStepArgs& args);
size_t square_sum_scratch();
void square_sum(const SquareSumArgs& args);
void clip(const ClipArgs& args);
void adamw(const AdamWArgs& args);

}  // namespace capstan::kernels::reference
