#pragma once
// Pointwise activations of an MLP, plain and gated, and their derivatives.
//   gelu       x/2 (1 + erf(x / sqrt 2))                               gelu_tanh  x/2 (1 + tanh(sqrt(2/pi)(x + 0.044715
//   x^3))) relu       max(x, 0)            squared_relu  max(x, 0)^2           silu       x / (1 + exp(-x))
// Gated (SwiGLU: silu, GeGLU: gelu): y = act(gate) * up.
// Gradients: dx = act'(x) dy;  gated: dgate = act'(gate) up dy, dup = act(gate) dy.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

enum class ActivationKind : uint8_t { none, gelu, gelu_tanh, relu, squared_relu, silu };

struct ActivationArgs {
  ActivationKind kind = ActivationKind::gelu;
  const void* x = nullptr;   ///< [count]; the gate when up is given
  const void* up = nullptr;  ///< [count] or null
  void* y = nullptr;         ///< [count]; may be x
  int64_t count = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

struct ActivationBackwardArgs {
  ActivationKind kind = ActivationKind::gelu;
  const void* x = nullptr;
  const void* up = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;   ///< may be dy when not gated
  void* dup = nullptr;  ///< when gated; may be dy
  int64_t count = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
