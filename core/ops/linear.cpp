#include "core/ops/linear.h"

#include <algorithm>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/product.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// std::function needs copyable captures; the prepared product is shared by the copies.
Bound bind_product(const BindContext& c, const kernels::MatmulShape& shape, int a, int b, int bias) {
  std::shared_ptr<kernels::PreparedMatmul> product = c.backend.prepare_matmul(shape);
  return {product->scratch_bytes(), [product, a, b, bias](const RunArgs& args) {
            kernels::MatmulArgs now{args.in[a], args.in[b], bias >= 0 ? args.in[bias] : nullptr, args.out[0],
                                    args.accumulate};
            now.stream = args.stream;
            product->run(now, args.scratch);
          }};
}

/// Whether this rank adds operand i, of which all ranks hold the whole, to an output of which each holds an addend: on
/// every such axis only the first rank does, so that the sum has it once.
bool adds_whole(const BindContext& c, size_t i) {
  for (const Axis axis : kAllAxes)
    if (c.mesh.size(axis) > 1 && on(c.out[0].placements, axis).is_partial() &&
        on(c.in[i].placements, axis).is_replicate() && c.mesh.coordinate(axis) > 0)
      return false;
  return true;
}

class Linear final : public Op {
 public:
  explicit Linear(kernels::ActivationKind activation) : activation_(activation) {}
  std::string_view name() const override { return "linear"; }
  std::string attributes() const override {
    return activation_ == kernels::ActivationKind::none ? "" : fmt::format("act {}", static_cast<int>(activation_));
  }
  // inputs: x, weight, bias
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const TensorSpec &x = in[0].spec, &w = in[1].spec;
    CAPSTAN_CHECK(w.shape.size() == 2 && !x.shape.empty() && x.shape.back() == w.shape[1] && x.dtype == w.dtype,
                  "linear: x {} and weight {}", to_string(x), to_string(w));
    CAPSTAN_CHECK(!in[2].present || in[2].spec.shape == Shape{w.shape[0]}, "linear: bias {}", to_string(in[2].spec));
    Shape shape = x.shape;
    shape.back() = w.shape[0];
    return {{shape, x.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules = alike_on_leading(last, {true, false, false}, {true});
    rules.push_back({{Replicate, Shard(0), Shard(0)}, {Shard(last)}});  // column parallel
    if (activation_ != kernels::ActivationKind::none) return rules;
    rules.push_back({{Shard(last), Shard(1), Replicate}, {Partial}});  // row parallel; the bias is added once
    if (!in[2].present) rules.push_back({{Partial, Replicate, Replicate}, {Partial}});
    return rules;
  }
  Kept kept() const override { return {0b011, 0}; }
  void adjoint(Adjoint& a) const override;
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(row_count(in[0].shape), out[0].shape.back(), in[0].shape.back(), in, out);
  }
  Bound bind(const BindContext& c) const override {
    kernels::MatmulShape shape{row_count(c.in_local[0]),
                               c.out_local[0].back(),
                               c.in_local[0].back(),
                               false,
                               true,
                               c.in[0].dtype,
                               c.in[1].dtype,
                               c.out[0].dtype};
    shape.activation = activation_;
    const bool biased = c.has_in[2] && adds_whole(c, 2);
    shape.bias = !biased && c.has_in[2];
    const size_t scratch_of_others = c.backend.prepare_matmul(shape)->scratch_bytes();  // one plan for all ranks
    shape.bias = biased;
    Bound bound = bind_product(c, shape, 0, 1, biased ? 2 : -1);
    bound.scratch_bytes = std::max(bound.scratch_bytes, scratch_of_others);
    return bound;
  }

 private:
  kernels::ActivationKind activation_;
};

class LinearInputGradient final : public Op {
 public:
  std::string_view name() const override { return "linear input gradient"; }
  // inputs: dy, weight, sum so far (optional; the output takes its memory)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    Shape shape = in[0].spec.shape;
    shape.back() = in[1].spec.shape[1];
    CAPSTAN_CHECK(!in[2].present || in[2].spec.shape == shape, "linear input gradient: sum {}", to_string(in[2].spec));
    return {{shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules = alike_on_leading(last, {true, false, true}, {true});
    rules.push_back({{Shard(last), Shard(0), Partial}, {Partial}});
    rules.push_back({{Shard(last), Shard(0), Replicate}, {Partial}});  // the sum so far is added once
    rules.push_back({{Replicate, Shard(1), Shard(last)}, {Shard(last)}});
    rules.push_back({{Partial, Replicate, Partial}, {Partial}});
    return rules;
  }
  std::vector<InPlace> in_place() const override { return {{0, 2}}; }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(row_count(in[0].shape), out[0].shape.back(), in[0].shape.back(), in, out);
  }
  Bound bind(const BindContext& c) const override {
    kernels::MatmulShape shape{row_count(c.in_local[0]),
                               c.out_local[0].back(),
                               c.in_local[0].back(),
                               false,
                               false,
                               c.in[0].dtype,
                               c.in[1].dtype,
                               c.out[0].dtype};
    shape.may_accumulate = c.has_in[2];
    std::shared_ptr<kernels::PreparedMatmul> product = c.backend.prepare_matmul(shape);
    const int64_t count = element_count(c.out_local[0]);
    const DType dtype = c.out[0].dtype;
    const bool adds = c.has_in[2] && adds_whole(c, 2);
    return {product->scratch_bytes(), [product, count, dtype, adds, cast = c.backend.cast](const RunArgs& a) {
              if (adds && a.in[2] != a.out[0]) cast({a.in[2], a.out[0], count, dtype, dtype, a.stream});
              kernels::MatmulArgs now{a.in[0], a.in[1], nullptr, a.out[0], adds};
              now.stream = a.stream;
              product->run(now, a.scratch);
            }};
  }
};

class LinearWeightGradient final : public Op {
 public:
  std::string_view name() const override { return "linear weight gradient"; }
  // inputs: dy, x -> dW [out, in] in the accumulation dtype
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{{in[0].spec.shape.back(), in[1].spec.shape.back()}, accumulation_of(in[0].spec.dtype)}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules{all_replicate(2, 1)};
    for (int dim = 0; dim < last; ++dim) rules.push_back({{Shard(dim), Shard(dim)}, {Partial}});
    rules.push_back({{Shard(last), Replicate}, {Shard(0)}});
    rules.push_back({{Replicate, Shard(last)}, {Shard(1)}});
    rules.push_back({{Partial, Replicate}, {Partial}});
    return rules;
  }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(out[0].shape[0], out[0].shape[1], row_count(in[0].shape), in, out);
  }
  Bound bind(const BindContext& c) const override {
    kernels::MatmulShape shape{
        c.out_local[0][0], c.out_local[0][1], row_count(c.in_local[0]), true, false, c.in[0].dtype,
        c.in[1].dtype,     c.out[0].dtype};
    shape.may_accumulate = true;
    return bind_product(c, shape, 0, 1, -1);
  }
};

class BiasGradient final : public Op {
 public:
  std::string_view name() const override { return "bias gradient"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{{in[0].spec.shape.back()}, accumulation_of(in[0].spec.dtype)}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules{all_replicate(1, 1)};
    for (int dim = 0; dim < last; ++dim) rules.push_back({{Shard(dim)}, {Partial}});
    rules.push_back({{Shard(last)}, {Shard(0)}});
    rules.push_back({{Partial}, {Partial}});
    return rules;
  }
  Bound bind(const BindContext& c) const override {
    kernels::BiasGradientArgs args;
    args.rows = row_count(c.in_local[0]);
    args.n = c.in_local[0].back();
    args.dtype = c.in[0].dtype;
    return {c.backend.bias_gradient_scratch(args.rows, args.n),
            [run = c.backend.bias_gradient, args](const RunArgs& a) {
              kernels::BiasGradientArgs now = args;
              now.dy = a.in[0], now.db = a.out[0], now.accumulate = a.accumulate, now.scratch = a.scratch;
              now.stream = a.stream;
              run(now);
            }};
  }
};

class AddRow final : public Op {
 public:
  std::string_view name() const override { return "add row"; }
  // inputs: x, row
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[1].spec.shape == Shape{in[0].spec.shape.back()} && in[0].spec.dtype == in[1].spec.dtype,
                  "add row: x {} and row {}", to_string(in[0].spec), to_string(in[1].spec));
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const int last = rank_of(in[0]) - 1;
    std::vector<Signature> rules = alike_on_leading(last, {true, false}, {true});
    rules.push_back({{Shard(last), Shard(0)}, {Shard(last)}});
    return rules;
  }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override;
  Bound bind(const BindContext& c) const override {
    const int64_t rows = row_count(c.in_local[0]), width = c.in_local[0].back();
    return {0, [run = c.backend.add, rows, width, dtype = c.in[0].dtype](const RunArgs& a) {
              run({a.in[0], a.in[1], a.out[0], width, dtype, rows, a.stream});
            }};
  }
};

/// Records `op` so that its one output is the gradient of input i of the forward node.
void write_gradient(Adjoint& a, int i, OpPtr op, const std::vector<Value>& inputs) {
  const Value buffer = a.parameter_buffer(i);
  if (buffer.present())
    a.recorder().record_into(std::move(op), inputs, {buffer}, a.claim({i}), Purpose::gradient);
  else
    a.contribute(i, a.recorder().record_one(std::move(op), inputs, Purpose::gradient_activation));
}

void Linear::adjoint(Adjoint& a) const {
  CAPSTAN_CHECK(activation_ == kernels::ActivationKind::none,
                "a product fused with its activation keeps nothing for backward");
  const Value dy = a.gradient(0);
  if (a.needs(0))
    a.replace(0, a.recorder().record_one(std::make_shared<LinearInputGradient>(), {dy, a.input(1), a.so_far(0)},
                                         Purpose::gradient_activation));
  if (a.needs(1)) write_gradient(a, 1, std::make_shared<LinearWeightGradient>(), {dy, a.input(0)});
  if (a.needs(2)) write_gradient(a, 2, std::make_shared<BiasGradient>(), {dy});
}

void AddRow::adjoint(Adjoint& a) const {
  a.contribute(0, a.gradient(0));
  if (a.needs(1)) write_gradient(a, 1, std::make_shared<BiasGradient>(), {a.gradient(0)});
}

}  // namespace

Value add_row(Recorder& recorder, Value x, Value row) {
  return recorder.record_one(std::make_shared<AddRow>(), {x, row});
}

LinearRole linear_role_of(const Op& op) {
  if (const auto* product = dynamic_cast<const Linear*>(&op))
    return product->attributes().empty() ? LinearRole::product : LinearRole::none;
  if (dynamic_cast<const LinearInputGradient*>(&op)) return LinearRole::input_gradient;
  if (dynamic_cast<const LinearWeightGradient*>(&op)) return LinearRole::weight_gradient;
  return dynamic_cast<const BiasGradient*>(&op) ? LinearRole::bias_gradient : LinearRole::none;
}

Value linear(Recorder& recorder, Value x, Value weight, Value bias, kernels::ActivationKind activation) {
  CAPSTAN_CHECK(activation == kernels::ActivationKind::none || !recorder.training(),
                "linear: fused activation in training");
  return recorder.record_one(std::make_shared<Linear>(activation), {x, weight, bias});
}

}  // namespace capstan
