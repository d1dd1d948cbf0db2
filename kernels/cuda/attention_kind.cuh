#pragma once
// Which instantiations of attention's kernels there are, and which one a call takes.

#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"

namespace capstan::kernels::cuda {

/// Which instantiation of a kernel: elements, padded head, with biases and dropout or without.
template <typename T, int D, bool Extras>
struct AttentionKind {};

template <typename T, bool Plain, typename F>
void with_attention_dims(const AttentionProblem& p, F&& f) {
  const auto with_extras = [&]<int D>(std::integral_constant<int, D>) {
    if constexpr (Plain && D < 256) {
      if (!has_extras(p)) return f(AttentionKind<T, D, false>{});
    }
    f(AttentionKind<T, D, true>{});
  };
  if constexpr (Plain) {
    if (p.head_size <= 64) return with_extras(std::integral_constant<int, 64>{});
  }
  if (p.head_size <= 128) return with_extras(std::integral_constant<int, 128>{});
  with_extras(std::integral_constant<int, 256>{});
}

/// Calls f with the kind of kernel for a call. Biases and dropout have instantiations of their own, so that others stay
/// lean. Only bf16 has all: f32, f16 and heads beyond 128 have only the kernels that do everything, f32 and f16 no
/// narrow ones, so that the whole compiles in time.
template <typename F>
void with_attention_kind(DType dtype, const AttentionProblem& p, F&& f) {
  switch (dtype) {
    case DType::f32:
      return with_attention_dims<float, false>(p, f);
    case DType::bf16:
      return with_attention_dims<__nv_bfloat16, true>(p, f);
    case DType::f16:
      return with_attention_dims<__half, false>(p, f);
    default:
      throw std::invalid_argument(std::string("attention: the CUDA backend computes in f32, bf16 and f16, not in ") +
                                  name_of(dtype));
  }
}

}  // namespace capstan::kernels::cuda
