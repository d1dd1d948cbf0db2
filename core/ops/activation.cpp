#include "core/ops/activation.h"

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

std::vector<Signature> pointwise(std::span<const InputSpec> in, size_t outputs) {
  return alike_on_leading(rank_of(in[0]), std::vector<bool>(in.size(), true), std::vector<bool>(outputs, true));
}

class ActivationGradient final : public Op {
 public:
  explicit ActivationGradient(kernels::ActivationKind kind) : kind_(kind) {}
  kernels::ActivationKind kind() const { return kind_; }
  std::string_view name() const override { return "activation gradient"; }
  std::string attributes() const override { return fmt::format("{}", static_cast<int>(kind_)); }
  // inputs: dy, x, up (optional) -> dx, dup (when gated)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    std::vector<TensorSpec> out{{in[0].spec.shape, in[0].spec.dtype}};
    if (in[2].present) out.push_back(out[0]);
    return out;
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return pointwise(in, in[2].present ? 2 : 1);
  }
  // Gated: dup may be dy, since the kernel reads an element of dy before it writes there; dx then has memory of its
  // own.
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  Bound bind(const BindContext& c) const override {
    kernels::ActivationBackwardArgs args;
    args.kind = kind_;
    args.count = element_count(c.in_local[0]);
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.activation_backward, args](const RunArgs& a) {
              kernels::ActivationBackwardArgs now = args;
              now.dy = a.in[0], now.x = a.in[1], now.up = a.in[2], now.dx = a.out[0];
              if (a.in[2]) now.dup = a.out[1];
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  kernels::ActivationKind kind_;
};

/// The gated gradient may not take dy's memory for dx (the contract allows it for dup only).
class GatedGradient final : public Op {
 public:
  explicit GatedGradient(kernels::ActivationKind kind) : plain_(kind) {}
  kernels::ActivationKind kind() const { return plain_.kind(); }
  std::string_view name() const override { return "gated activation gradient"; }
  std::string attributes() const override { return plain_.attributes(); }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override { return plain_.infer(in); }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override { return plain_.signatures(in); }
  std::vector<InPlace> in_place() const override { return {{1, 0}}; }
  Bound bind(const BindContext& c) const override { return plain_.bind(c); }

 private:
  ActivationGradient plain_;
};

class Activate final : public Op {
 public:
  explicit Activate(kernels::ActivationKind kind) : kind_(kind) {}
  kernels::ActivationKind kind() const { return kind_; }
  std::string_view name() const override { return "activation"; }
  std::string attributes() const override { return fmt::format("{}", static_cast<int>(kind_)); }
  // inputs: x, up (optional)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(!in[1].present || in[1].spec.shape == in[0].spec.shape, "gated activation: gate {} and up {}",
                  to_string(in[0].spec), to_string(in[1].spec));
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override { return pointwise(in, 1); }
  Kept kept() const override { return {0b11, 0}; }
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    const bool gated = a.has_input(1);
    OpPtr op =
        gated ? OpPtr(std::make_shared<GatedGradient>(kind_)) : OpPtr(std::make_shared<ActivationGradient>(kind_));
    const std::vector<Value> gradients = a.recorder().record(
        op, {a.gradient(0), a.input(0), gated ? a.input(1) : Value{}}, Purpose::gradient_activation);
    a.contribute(0, gradients[0]);
    if (gated) a.contribute(1, gradients[1]);
  }
  Bound bind(const BindContext& c) const override {
    kernels::ActivationArgs args;
    args.kind = kind_;
    args.count = element_count(c.in_local[0]);
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.activation, args](const RunArgs& a) {
              kernels::ActivationArgs now = args;
              now.x = a.in[0], now.up = a.in[1], now.y = a.out[0];
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  kernels::ActivationKind kind_;
};

}  // namespace

kernels::ActivationKind activation_of(const Op& op) {
  const auto* found = dynamic_cast<const Activate*>(&op);
  return found ? found->kind() : kernels::ActivationKind::none;
}
kernels::ActivationKind activation_gradient_of(const Op& op) {
  if (const auto* plain = dynamic_cast<const ActivationGradient*>(&op)) return plain->kind();
  const auto* gated = dynamic_cast<const GatedGradient*>(&op);
  return gated ? gated->kind() : kernels::ActivationKind::none;
}

Value activate(Recorder& recorder, Value x, kernels::ActivationKind kind) {
  return recorder.record_one(std::make_shared<Activate>(kind), {x, {}});
}
Value activate_gated(Recorder& recorder, Value gate, Value up, kernels::ActivationKind kind) {
  return recorder.record_one(std::make_shared<Activate>(kind), {gate, up});
}

}  // namespace capstan
