#pragma once
// The activation functions and their derivatives at one point, in the accumulation type. Shared by the activation
// kernels and the epilogue of the matrix product.

#include <cmath>

#include "kernels/activation.h"

namespace capstan::kernels::reference {

inline constexpr double kInverseSqrt2 = 0.70710678118654752440;      // 1 / sqrt 2
inline constexpr double kInverseSqrtTwoPi = 0.39894228040143267794;  // 1 / sqrt(2 pi)
inline constexpr double kSqrtTwoOverPi = 0.79788456080286535588;     // sqrt(2 / pi)
inline constexpr double kGeluCubic = 0.044715;

template <typename A>
A activation_value(ActivationKind kind, A x) {
  switch (kind) {
    case ActivationKind::gelu:
      return A(0.5) * x * (A(1) + std::erf(x * A(kInverseSqrt2)));
    case ActivationKind::gelu_tanh:
      return A(0.5) * x * (A(1) + std::tanh(A(kSqrtTwoOverPi) * (x + A(kGeluCubic) * x * x * x)));
    case ActivationKind::relu:
      return x > A(0) ? x : A(0);
    case ActivationKind::squared_relu:
      return x > A(0) ? x * x : A(0);
    case ActivationKind::silu:
      return x / (A(1) + std::exp(-x));
    case ActivationKind::none:
      break;
  }
  return x;
}

template <typename A>
A activation_derivative(ActivationKind kind, A x) {
  switch (kind) {
    case ActivationKind::gelu:  // Phi(x) + x phi(x)
      return A(0.5) * (A(1) + std::erf(x * A(kInverseSqrt2))) + x * A(kInverseSqrtTwoPi) * std::exp(A(-0.5) * x * x);
    case ActivationKind::gelu_tanh: {
      const A t = std::tanh(A(kSqrtTwoOverPi) * (x + A(kGeluCubic) * x * x * x));
      const A inner = A(kSqrtTwoOverPi) * (A(1) + A(3 * kGeluCubic) * x * x);
      return A(0.5) * (A(1) + t) + A(0.5) * x * (A(1) - t * t) * inner;
    }
    case ActivationKind::relu:
      return x > A(0) ? A(1) : A(0);
    case ActivationKind::squared_relu:
      return x > A(0) ? A(2) * x : A(0);
    case ActivationKind::silu: {
      const A s = A(1) / (A(1) + std::exp(-x));
      return s * (A(1) + x * (A(1) - s));
    }
    case ActivationKind::none:
      break;
  }
  return A(1);
}

}  // namespace capstan::kernels::reference
