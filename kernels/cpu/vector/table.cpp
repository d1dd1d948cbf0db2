#include "kernels/cpu/vector/table.h"

#include "kernels/cpu/cpu_backend.h"

namespace capstan::kernels::CAPSTAN_ISA {

namespace {

void fill_table(Backend& table) {
  table.attention_scratch = attention_scratch;
  table.attention = attention;
  table.attention_backward_scratch = attention_backward_scratch;
  table.attention_backward = attention_backward;
  table.bias_gradient_scratch = bias_gradient_scratch;
  table.bias_gradient = bias_gradient;
  table.activation = activation;
  table.activation_backward = activation_backward;
  table.norm = norm;
  table.norm_backward_scratch = norm_backward_scratch;
  table.norm_backward = norm_backward;
  table.rotary = rotary;
  table.embedding = embedding;
  table.embedding_backward_scratch = embedding_backward_scratch;
  table.embedding_backward = embedding_backward;
  table.dropout = dropout;
  table.cross_entropy = cross_entropy;
  table.cross_entropy_backward = cross_entropy_backward;
  table.cross_entropy_statistics = cross_entropy_statistics;
  table.cross_entropy_combine = cross_entropy_combine;
  table.add = add;
  table.scale = scale;
  table.cast = cast;
  table.cache_append = cache_append;
  table.square_sum_scratch = square_sum_scratch;
  table.square_sum = square_sum;
  table.clip = clip;
  table.adamw = adamw;
}

}  // namespace

const VectorKernels* vector_kernels() {
  static const VectorKernels kernels{fill_table, gemm_kernels()};
  return &kernels;
}

}  // namespace capstan::kernels::CAPSTAN_ISA
