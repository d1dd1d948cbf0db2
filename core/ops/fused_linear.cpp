#include "core/ops/fused_linear.h"

#include "core/error.h"
#include "core/ops/product.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// An absent operand has no elements.
std::vector<TensorSpec> local_specs(std::vector<TensorSpec> specs, const std::vector<Shape>& local,
                                    const std::vector<bool>& present) {
  for (size_t i = 0; i < specs.size(); ++i) specs[i].shape = present[i] ? local[i] : Shape{0};
  return specs;
}

class LinearActivation final : public FusedLinear {
 public:
  explicit LinearActivation(kernels::ActivationKind kind) : kind_(kind) {}
  std::string_view name() const override { return "linear activation"; }
  std::string attributes() const override { return fmt::format("{}", static_cast<int>(kind_)); }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const TensorSpec &x = in[0].spec, &w = in[1].spec;
    CAPSTAN_CHECK(w.shape.size() == 2 && !x.shape.empty() && x.shape.back() == w.shape[1] && x.dtype == w.dtype,
                  "linear activation: x {} and weight {}", to_string(x), to_string(w));
    CAPSTAN_CHECK(!in[2].present || in[2].spec.shape == Shape{w.shape[0]}, "linear activation: bias {}",
                  to_string(in[2].spec));
    Shape shape = x.shape;
    shape.back() = w.shape[0];
    return {{shape, x.dtype}, {shape, x.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules = alike_on_leading(last, {true, false, false}, {true, true});
    rules.push_back({{Replicate, Shard(0), Shard(0)}, {Shard(last), Shard(last)}});
    return rules;
  }
  kernels::MatmulShape shape(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    kernels::MatmulShape shape{row_count(in[0].shape), out[0].shape.back(), in[0].shape.back(), false, true};
    shape.a = shape.b = in[0].dtype, shape.c = out[0].dtype;
    shape.bias = in[2].elements() > 0;
    shape.activation = kind_, shape.keeps_input = true;
    return shape;
  }

 private:
  kernels::MatmulArgs place(const RunArgs& a) const override {
    kernels::MatmulArgs args{a.in[0], a.in[1], a.in[2], a.out[1]};
    args.aux = a.out[0];
    return args;
  }
  kernels::ActivationKind kind_;
};

class LinearActivationGradient final : public FusedLinear {
 public:
  explicit LinearActivationGradient(kernels::ActivationKind kind) : kind_(kind) {}
  std::string_view name() const override { return "linear activation gradient"; }
  std::string attributes() const override { return fmt::format("{}", static_cast<int>(kind_)); }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    Shape shape = in[0].spec.shape;
    shape.back() = in[1].spec.shape[1];
    CAPSTAN_CHECK(in[2].spec.shape == shape, "linear activation gradient: input of the activation {}",
                  to_string(in[2].spec));
    return {{shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules = alike_on_leading(last, {true, false, true}, {true});
    rules.push_back({{Replicate, Shard(1), Shard(last)}, {Shard(last)}});
    return rules;
  }
  kernels::MatmulShape shape(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    kernels::MatmulShape shape{row_count(in[0].shape), out[0].shape.back(), in[0].shape.back()};
    shape.a = shape.b = in[0].dtype, shape.c = out[0].dtype;
    shape.activation_gradient = kind_;
    return shape;
  }

 private:
  kernels::MatmulArgs place(const RunArgs& a) const override {
    kernels::MatmulArgs args{a.in[0], a.in[1], nullptr, a.out[0]};
    args.aux = a.in[2];
    return args;
  }
  kernels::ActivationKind kind_;
};

class LinearParameterGradients final : public FusedLinear {
 public:
  std::string_view name() const override { return "linear parameter gradients"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const int64_t rows = in[0].spec.shape.back();
    const DType sums = accumulation_of(in[0].spec.dtype);
    return {{{rows, in[1].spec.shape.back()}, sums}, {{rows}, sums}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules{all_replicate(2, 2)};
    for (int dim = 0; dim < last; ++dim) rules.push_back({{Shard(dim), Shard(dim)}, {Partial, Partial}});
    rules.push_back({{Shard(last), Replicate}, {Shard(0), Shard(0)}});
    rules.push_back({{Replicate, Shard(last)}, {Shard(1), Replicate}});
    rules.push_back({{Partial, Replicate}, {Partial, Partial}});
    return rules;
  }
  kernels::MatmulShape shape(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    kernels::MatmulShape shape{out[0].shape[0], out[0].shape[1], row_count(in[0].shape), true};
    shape.a = shape.b = in[0].dtype, shape.c = out[0].dtype;
    shape.may_accumulate = shape.bias_gradient = true;
    return shape;
  }

 private:
  kernels::MatmulArgs place(const RunArgs& a) const override {
    kernels::MatmulArgs args{a.in[0], a.in[1], nullptr, a.out[0], a.accumulate};
    args.bias_gradient = a.out[1];
    return args;
  }
};

}  // namespace

Cost FusedLinear::cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const {
  const kernels::MatmulShape s = shape(in, out);
  return product_cost(s.m, s.n, s.k, in, out);
}

Bound FusedLinear::bind(const BindContext& c) const {
  const kernels::MatmulShape s =
      shape(local_specs(c.in, c.in_local, c.has_in), local_specs(c.out, c.out_local, c.has_out));
  // std::function needs copyable captures; the prepared product is shared by the copies.
  std::shared_ptr<kernels::PreparedMatmul> product = c.backend.prepare_matmul(s);
  return {product->scratch_bytes(), [product, self = shared_from_this()](const RunArgs& a) {
            kernels::MatmulArgs args = self->place(a);
            args.stream = a.stream;
            product->run(args, a.scratch);
          }};
}

FusedLinearPtr make_linear_activation(kernels::ActivationKind kind) { return std::make_shared<LinearActivation>(kind); }
FusedLinearPtr make_linear_activation_gradient(kernels::ActivationKind kind) {
  return std::make_shared<LinearActivationGradient>(kind);
}
FusedLinearPtr make_linear_parameter_gradients() { return std::make_shared<LinearParameterGradients>(); }

}  // namespace capstan
