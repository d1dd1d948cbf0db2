#include "kernels/backend.h"

#include "kernels/reference/reference.h"

namespace capstan::kernels {

Backend reference_backend() {
  Backend b;
  b.name = "reference";
  b.instruction_set = "plain";
  b.dtypes = {DType::f64, DType::f32, DType::bf16, DType::f16};
  b.prepare_matmul = reference::prepare_matmul;
  b.fuses = reference::fuses;
  b.bias_gradient_scratch = reference::bias_gradient_scratch;
  b.bias_gradient = reference::bias_gradient;
  b.activation = reference::activation;
  b.activation_backward = reference::activation_backward;
  b.norm = reference::norm;
  b.norm_backward_scratch = reference::norm_backward_scratch;
  b.norm_backward = reference::norm_backward;
  b.attention_scratch = reference::attention_scratch;
  b.attention = reference::attention;
  b.attention_backward_scratch = reference::attention_backward_scratch;
  b.attention_backward = reference::attention_backward;
  b.rotary = reference::rotary;
  b.embedding = reference::embedding;
  b.embedding_backward_scratch = reference::embedding_backward_scratch;
  b.embedding_backward = reference::embedding_backward;
  b.dropout = reference::dropout;
  b.cross_entropy = reference::cross_entropy;
  b.cross_entropy_backward = reference::cross_entropy_backward;
  b.cross_entropy_statistics = reference::cross_entropy_statistics;
  b.cross_entropy_combine = reference::cross_entropy_combine;
  b.copy = reference::copy;
  b.fill = reference::fill;
  b.add = reference::add;
  b.scale = reference::scale;
  b.cast = reference::cast;
  b.not_finite = reference::not_finite;
  b.cache_append = reference::cache_append;
  b.begin_step = reference::begin_step;
  b.square_sum_scratch = reference::square_sum_scratch;
  b.square_sum = reference::square_sum;
  b.clip = reference::clip;
  b.adamw = reference::adamw;
  return b;
}

}  // namespace capstan::kernels
