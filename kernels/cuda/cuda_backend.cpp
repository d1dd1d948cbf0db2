// The table of kernels of a CUDA device: our own for passes over memory, cuBLASLt's products, attention by cuDNN where
// it covers a call and by our own kernels else.

#include "kernels/cuda/attention_own.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_kernels.h"

namespace capstan::kernels {
namespace {

/// All but the products.
Backend own_kernels() {
  Backend b;
  b.bias_gradient_scratch = cuda::bias_gradient_scratch;
  b.bias_gradient = cuda::bias_gradient;
  b.activation = cuda::activation;
  b.activation_backward = cuda::activation_backward;
  b.norm = cuda::norm;
  b.norm_backward_scratch = cuda::norm_backward_scratch;
  b.norm_backward = cuda::norm_backward;
  b.attention_scratch = cuda::attention_own_scratch;
  b.attention = cuda::attention_own;
  b.attention_backward_scratch = cuda::attention_own_backward_scratch;
  b.attention_backward = cuda::attention_own_backward;
  b.rotary = cuda::rotary;
  b.embedding = cuda::embedding;
  b.embedding_backward_scratch = cuda::embedding_backward_scratch;
  b.embedding_backward = cuda::embedding_backward;
  b.dropout = cuda::dropout;
  b.cross_entropy = cuda::cross_entropy;
  b.cross_entropy_backward = cuda::cross_entropy_backward;
  b.cross_entropy_statistics = cuda::cross_entropy_statistics;
  b.cross_entropy_combine = cuda::cross_entropy_combine;
  b.copy = cuda::copy;
  b.fill = cuda::fill;
  b.add = cuda::add;
  b.scale = cuda::scale;
  b.cast = cuda::cast;
  b.not_finite = cuda::not_finite;
  b.cache_append = cuda::cache_append;
  b.begin_step = cuda::begin_step;
  b.square_sum_scratch = cuda::square_sum_scratch;
  b.square_sum = cuda::square_sum;
  b.clip = cuda::clip;
  b.adamw = cuda::adamw;
  return b;
}

}  // namespace

Backend cuda_backend(DeviceRuntime& device, const CudaOptions& options) {
  const DeviceFacts facts = device.facts();
  Backend b = own_kernels();
  b.name = "cuda";
  b.instruction_set = "sm_" + std::to_string(facts.major) + std::to_string(facts.minor);
  b.dtypes = {DType::f32, DType::bf16, DType::f16};
  cuda::add_products(b, device, options.products);
  b.instruction_set += ", attention: " + cuda::add_cudnn_attention(b, facts, options.attention);
  return b;
}

}  // namespace capstan::kernels
