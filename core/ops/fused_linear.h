#pragma once
// Two ops of a linear layer in training as one product with an epilogue (kernels/matmul.h). No model records them: the
// pass that fuses puts them in the place of two nodes, where the backend gains from it (core/passes/fuse.h). They have
// no adjoint, since they come after differentiation.

#include <memory>
#include <span>

#include "core/op.h"
#include "kernels/activation.h"

namespace capstan {

class FusedLinear : public Op, public std::enable_shared_from_this<FusedLinear> {
 public:
  /// Of one rank: local shapes; an absent operand has no elements.
  virtual kernels::MatmulShape shape(std::span<const TensorSpec> in_local,
                                     std::span<const TensorSpec> out_local) const = 0;
  Cost cost(std::span<const TensorSpec> in_local, std::span<const TensorSpec> out_local) const override;
  Bound bind(const BindContext& context) const override;

 protected:
  /// Where the operands of the product stand among those of the op.
  virtual kernels::MatmulArgs place(const RunArgs& args) const = 0;
};

using FusedLinearPtr = std::shared_ptr<const FusedLinear>;

/// x (..., in), weight [out, in], bias [out] or absent -> z = x W^T + b and act(z).
FusedLinearPtr make_linear_activation(kernels::ActivationKind kind);
/// dy (..., out), weight [out, in], z (..., in) -> (dy W) act'(z).
FusedLinearPtr make_linear_activation_gradient(kernels::ActivationKind kind);
/// dy (..., out), x (..., in) -> dW [out, in] and db [out], both in the accumulation dtype.
FusedLinearPtr make_linear_parameter_gradients();

}  // namespace capstan
