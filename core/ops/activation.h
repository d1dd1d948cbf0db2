#pragma once
// Pointwise activations of the MLP, plain and gated (formulas in kernels/activation.h).

#include "core/recorder.h"
#include "kernels/activation.h"

namespace capstan {

Value activate(Recorder& recorder, Value x, kernels::ActivationKind kind);
/// act(gate) * up
Value activate_gated(Recorder& recorder, Value gate, Value up, kernels::ActivationKind kind);

/// Of an op that is an activation, gated or not, and of one that is the gradient of a plain or a gated one; none of any
/// other.
kernels::ActivationKind activation_of(const Op& op);
kernels::ActivationKind activation_gradient_of(const Op& op);

}  // namespace capstan
