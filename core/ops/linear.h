#pragma once
// y = act(x W^T + b), W [out, in]: the product that holds most of a model's FLOPs. Its backward is three ops:
// dx = dy W (+ what other readers of x have contributed), dW (+)= dy^T x into the parameter's buffer, db (+)= sum dy.

#include "core/recorder.h"
#include "kernels/activation.h"

namespace capstan {

/// x (..., in), weight [out, in], bias [out] or absent -> (..., out). With an activation the pre-activation is not
/// kept: only for plans without a backward pass (throws Error(internal) otherwise).
Value linear(Recorder& recorder, Value x, Value weight, Value bias,
             kernels::ActivationKind activation = kernels::ActivationKind::none);

/// What an op is of a linear layer; the product only without an activation of its own. See core/passes/fuse.h.
enum class LinearRole { none, product, input_gradient, weight_gradient, bias_gradient };
LinearRole linear_role_of(const Op& op);

/// x (..., n) + row [n].
Value add_row(Recorder& recorder, Value x, Value row);

}  // namespace capstan
