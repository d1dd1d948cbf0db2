#pragma once
// Pointwise activations of the MLP, plain and gated (formulas in kernels/activation.h).

#include "core/recorder.h"
#include "kernels/activation.h"

namespace capstan {

Value activate(Recorder& recorder, Value x, kernels::ActivationKind kind);
/// act(gate) * up
Value activate_gated(Recorder& recorder, Value gate, Value up, kernels::ActivationKind kind);

}  // namespace capstan
