#include "core/passes/fuse.h"

#include <algorithm>

#include "core/ops/activation.h"
#include "core/ops/fused_linear.h"
#include "core/ops/linear.h"

namespace capstan {
namespace {

using kernels::ActivationKind;

class FusePass {
 public:
  FusePass(Tape& tape, const kernels::Backend& backend)
      : tape_(tape), backend_(backend), gone_(tape.nodes.size()), readers_(tape.tensors.size()) {
    for (size_t i = 0; i < tape.nodes.size(); ++i)
      for (const TensorId id : tape.nodes[i].inputs)
        if (id != kNoTensor) readers_[static_cast<size_t>(id)].push_back(i);
  }

  void run() {
    each(LinearRole::product, [&](size_t i) { fuse_activation(i); });  // first: it looks at gradients of activations
    each(LinearRole::input_gradient, [&](size_t i) { fuse_activation_gradient(i); });
    each(LinearRole::weight_gradient, [&](size_t i) { fuse_bias_gradient(i); });
    std::vector<Node> left;
    for (size_t i = 0; i < tape_.nodes.size(); ++i)
      if (!gone_[i]) left.push_back(std::move(tape_.nodes[i]));
    tape_.nodes = std::move(left);
  }

 private:
  template <typename Use>
  void each(LinearRole role, Use&& use) {
    for (size_t i = 0; i < tape_.nodes.size(); ++i)
      if (!gone_[i] && linear_role_of(*node(i).op) == role) use(i);
  }

  const Node& node(size_t i) const { return tape_.nodes[i]; }
  const std::vector<size_t>& readers(TensorId id) const { return readers_[static_cast<size_t>(id)]; }

  bool together(size_t a, size_t b) const {
    const Node &x = node(a), &y = node(b);
    return a < b && x.part == y.part && x.level == y.level && x.chunk == y.chunk && x.recomputed == y.recomputed &&
           x.accumulate == y.accumulate && !x.lane && !y.lane;
  }

  /// The one node that takes the activation of this tensor, when all others that read it only derive the activation.
  size_t only_activation(TensorId id) const {
    size_t found = tape_.nodes.size();
    for (const size_t i : readers(id)) {
      if (activation_gradient_of(*node(i).op) != ActivationKind::none) continue;
      const bool plain = activation_of(*node(i).op) != ActivationKind::none && node(i).inputs[1] == kNoTensor;
      if (!plain || found != tape_.nodes.size()) return tape_.nodes.size();
      found = i;
    }
    return found;
  }

  void fuse_activation(size_t linear) {
    const TensorId inner = node(linear).outputs[0];
    const size_t activation = only_activation(inner);
    if (activation == tape_.nodes.size() || !together(linear, activation)) return;
    Node fused = node(linear);
    fused.outputs = {inner, node(activation).outputs[0]};
    put(linear, activation, std::move(fused), make_linear_activation(activation_of(*node(activation).op)));
  }

  /// In the place of the second node: what it derives may be made again only there.
  void fuse_activation_gradient(size_t product) {
    const TensorId inner = node(product).outputs[0];
    if (node(product).inputs[2] != kNoTensor || readers(inner).size() != 1) return;
    const size_t gradient = readers(inner)[0];
    const ActivationKind kind = activation_gradient_of(*node(gradient).op);
    const bool plain = kind != ActivationKind::none && node(gradient).inputs[2] == kNoTensor;
    if (!plain || node(gradient).inputs[0] != inner || !together(product, gradient)) return;
    Node fused = node(gradient);
    fused.inputs = {node(product).inputs[0], node(product).inputs[1], node(gradient).inputs[1]};
    put(gradient, product, std::move(fused), make_linear_activation_gradient(kind));
  }

  /// Only past nodes that contribute to no gradient: contributions keep their order.
  void fuse_bias_gradient(size_t weight) {
    for (size_t i = weight + 1; i < tape_.nodes.size() && (i == weight + 1 || !contributes(i - 1)); ++i) {
      if (gone_[i] || linear_role_of(*node(i).op) != LinearRole::bias_gradient ||
          node(i).inputs[0] != node(weight).inputs[0])
        continue;
      if (!together(weight, i)) return;
      Node fused = node(weight);
      fused.outputs.push_back(node(i).outputs[0]);
      return put(weight, i, std::move(fused), make_linear_parameter_gradients());
    }
  }

  bool contributes(size_t i) const {
    return std::any_of(node(i).outputs.begin(), node(i).outputs.end(),
                       [&](TensorId id) { return id != kNoTensor && tape_.at(id).contributions > 0; });
  }

  std::vector<TensorSpec> local(const std::vector<TensorId>& ids) const {
    std::vector<TensorSpec> specs;
    for (const TensorId id : ids) {
      TensorSpec spec = id == kNoTensor ? TensorSpec{{0}} : tape_.at(id).spec;
      spec.shape = local_shape(spec, tape_.mesh);
      specs.push_back(spec);
    }
    return specs;
  }

  /// The node at `place` becomes `fused` and the other goes, where operands stand so and the backend gains from it.
  void put(size_t place, size_t other, Node fused, const FusedLinearPtr& op) {
    fused.op = op;
    if (!placements_fit(tape_, fused) || !backend_.fuses(op->shape(local(fused.inputs), local(fused.outputs)))) return;
    tape_.nodes[place] = std::move(fused);
    gone_[other] = true;
  }

  Tape& tape_;
  const kernels::Backend& backend_;
  std::vector<bool> gone_;
  std::vector<std::vector<size_t>> readers_;  ///< by tensor
};

}  // namespace

void fuse(Tape& tape, const kernels::Backend& backend) {
  if (backend.fuses != nullptr) FusePass(tape, backend).run();
}

}  // namespace capstan
