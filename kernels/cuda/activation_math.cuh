#pragma once
// The activation functions and their derivatives at one point, in float.

#include "kernels/activation.h"
#include "kernels/cuda/launch.cuh"

namespace capstan::kernels::cuda {

constexpr float kInverseSqrt2 = 0.70710678118654752440f;      // 1 / sqrt 2
constexpr float kInverseSqrtTwoPi = 0.39894228040143267794f;  // 1 / sqrt(2 pi)
constexpr float kSqrtTwoOverPi = 0.79788456080286535588f;     // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

__device__ inline float activation_value(ActivationKind kind, float x) {
  switch (kind) {
    case ActivationKind::gelu:
      return 0.5f * x * (1.0f + erff(x * kInverseSqrt2));
    case ActivationKind::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(kSqrtTwoOverPi * (x + kGeluCubic * x * x * x)));
    case ActivationKind::relu:
      return x > 0.0f ? x : 0.0f;
    case ActivationKind::squared_relu:
      return x > 0.0f ? x * x : 0.0f;
    case ActivationKind::silu:
      return x / (1.0f + expf(-x));
    case ActivationKind::none:
      break;
  }
  return x;
}

__device__ inline float activation_derivative(ActivationKind kind, float x) {
  switch (kind) {
    case ActivationKind::gelu:  // Phi(x) + x phi(x)
      return 0.5f * (1.0f + erff(x * kInverseSqrt2)) + x * kInverseSqrtTwoPi * expf(-0.5f * x * x);
    case ActivationKind::gelu_tanh: {
      const float t = tanhf(kSqrtTwoOverPi * (x + kGeluCubic * x * x * x));
      const float inner = kSqrtTwoOverPi * (1.0f + 3.0f * kGeluCubic * x * x);
      return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    case ActivationKind::relu:
      return x > 0.0f ? 1.0f : 0.0f;
    case ActivationKind::squared_relu:
      return x > 0.0f ? 2.0f * x : 0.0f;
    case ActivationKind::silu: {
      const float s = 1.0f / (1.0f + expf(-x));
      return s * (1.0f + x * (1.0f - s));
    }
    case ActivationKind::none:
      break;
  }
  return 1.0f;
}

}  // namespace capstan::kernels::cuda
