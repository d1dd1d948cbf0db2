#include "core/ops/norm.h"

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// Dims on which a shard is normalised on its own: all but the last, and the last where it is cut into heads.
int divisible_dims(const InputSpec& x, int64_t heads) { return rank_of(x) - (heads > 1 ? 0 : 1); }

/// What the kernels call rows and width: of x as this rank holds it.
template <typename Args>
void take_shape(Args& args, const Shape& local, const TensorSpec& x, int64_t heads) {
  args.width = x.shape.back() / heads;
  args.rows = args.width > 0 ? element_count(local) / args.width : 0;
  args.dtype = x.dtype;
}

class NormGradient final : public Op {
 public:
  NormGradient(bool rms, bool bias, int64_t heads) : rms_(rms), bias_(bias), heads_(heads) {}
  std::string_view name() const override { return rms_ ? "rms norm gradient" : "layer norm gradient"; }
  // inputs: dy, s, weight, rstd, mean (layer), dsum (optional) -> ds, dweight, dbias (with bias)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const TensorSpec gradient{{in[0].spec.shape.back() / heads_}, accumulation_of(in[0].spec.dtype)};
    std::vector<TensorSpec> out{{in[0].spec.shape, in[0].spec.dtype}, gradient};
    if (bias_) out.push_back(gradient);
    return out;
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = alike_on_leading(
        divisible_dims(in[0], heads_), {true, true, false, true, true, true}, std::vector<bool>{true, false, false});
    for (Signature& rule : rules) {
      rule.outputs.resize(bias_ ? 3 : 2);
      for (size_t i = 1; i < rule.outputs.size(); ++i)
        rule.outputs[i] = rule.outputs[0].is_shard() ? Partial : Replicate;
    }
    return rules;
  }
  std::vector<InPlace> in_place() const override { return {{0, 5}, {0, 0}}; }
  Bound bind(const BindContext& c) const override {
    kernels::NormBackwardArgs args;
    args.rms = rms_;
    take_shape(args, c.in_local[0], c.in[0], heads_);
    return {c.backend.norm_backward_scratch(args.rows, args.width, args.dtype),
            [run = c.backend.norm_backward, args, bias = bias_](const RunArgs& a) {
              kernels::NormBackwardArgs now = args;
              now.dy = a.in[0], now.s = a.in[1], now.weight = a.in[2], now.rstd = a.in[3], now.mean = a.in[4],
              now.dsum = a.in[5];
              now.ds = a.out[0], now.dweight = a.out[1], now.dbias = bias ? a.out[2] : nullptr;
              now.accumulate = a.accumulate, now.scratch = a.scratch;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  bool rms_, bias_;
  int64_t heads_;
};

class Norm final : public Op {
 public:
  Norm(bool rms, double epsilon, bool residual, int64_t heads)
      : rms_(rms), residual_(residual), epsilon_(epsilon), heads_(heads) {}
  std::string_view name() const override { return rms_ ? "rms norm" : "layer norm"; }
  std::string attributes() const override {
    return fmt::format("eps={}{}{}", epsilon_, residual_ ? " +residual" : "",
                       heads_ > 1 ? fmt::format(" heads={}", heads_) : "");
  }
  bool cheap() const override { return true; }
  // inputs: x, residual (optional), weight, bias (optional) -> y, rstd, mean (layer), sum (with residual)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const TensorSpec& x = in[0].spec;
    CAPSTAN_CHECK(x.shape.back() % heads_ == 0 && in[2].spec.shape == Shape{x.shape.back() / heads_},
                  "norm: x {}, {} heads and weight {}", to_string(x), heads_, to_string(in[2].spec));
    CAPSTAN_CHECK(in[2].spec.dtype == x.dtype &&
                      (!in[3].present || (in[3].spec.shape == in[2].spec.shape && in[3].spec.dtype == x.dtype)),
                  "norm: weight {} and bias {}", to_string(in[2].spec), to_string(in[3].spec));
    CAPSTAN_CHECK(!in[1].present || in[1].spec.shape == x.shape, "norm: x {} and residual {}", to_string(x),
                  to_string(in[1].spec));
    TensorSpec statistic{Shape(x.shape.begin(), x.shape.end() - 1), accumulation_of(x.dtype)};
    if (heads_ > 1) statistic.shape.push_back(heads_);
    std::vector<TensorSpec> out{{x.shape, x.dtype}, statistic};
    if (!rms_) out.push_back(statistic);
    if (residual_) out.push_back({x.shape, x.dtype});
    return out;
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return alike_on_leading(divisible_dims(in[0], heads_), {true, true, false, false},
                            std::vector<bool>(outputs(), true));
  }
  Kept kept() const override {
    return {0b0100u | (residual_ ? 0u : 0b0001u), (rms_ ? 0b10u : 0b110u) | (residual_ ? 1u << sum_output() : 0u)};
  }
  std::vector<InPlace> in_place() const override {
    return residual_ ? std::vector<InPlace>{{sum_output(), 0}, {sum_output(), 1}} : std::vector<InPlace>{};
  }
  int sum_output() const { return rms_ ? 2 : 3; }

  void adjoint(Adjoint& a) const override {
    const Value s = residual_ ? a.output(sum_output()) : a.input(0);
    // What reaches s by other ways: the gradient of `sum`, or (without residual) of x so far.
    const Value dsum = residual_ ? a.gradient(sum_output()) : a.so_far(0);
    if (!a.gradient(0).present()) {  // only the sum is read further on
      for (const int i : {0, 1}) a.contribute(i, dsum);
      return;
    }
    const bool bias = a.has_input(3);
    const std::vector<Value> inputs{a.gradient(0), s, a.input(2), a.output(1), rms_ ? Value{} : a.output(2), dsum};
    std::vector<Value> buffers{{}, a.parameter_buffer(2)};
    if (bias) buffers.push_back(a.parameter_buffer(3));
    const std::vector<Value> gradients =
        a.recorder().record_into(std::make_shared<NormGradient>(rms_, bias, heads_), inputs, buffers, a.claim({2, 3}),
                                 Purpose::gradient_activation);
    if (!residual_) {
      if (a.needs(0)) a.replace(0, gradients[0]);
      return;
    }
    a.contribute(0, gradients[0]);
    a.contribute(1, gradients[0]);
  }

  Bound bind(const BindContext& c) const override {
    kernels::NormArgs args;
    args.rms = rms_;
    args.epsilon = epsilon_;
    take_shape(args, c.in_local[0], c.in[0], heads_);
    return {0, [run = c.backend.norm, args, rms = rms_, sum = residual_ ? sum_output() : -1](const RunArgs& a) {
              kernels::NormArgs now = args;
              now.x = a.in[0], now.residual = a.in[1], now.weight = a.in[2], now.bias = a.in[3];
              now.y = a.out[0], now.rstd = a.out[1];
              if (!rms) now.mean = a.out[2];
              if (sum >= 0) now.sum = a.out[sum];
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  size_t outputs() const { return 2 + (rms_ ? 0 : 1) + (residual_ ? 1 : 0); }
  bool rms_, residual_;
  double epsilon_;
  int64_t heads_;
};

}  // namespace

NormResult norm(Recorder& recorder, Value x, Value residual, Value weight, Value bias, bool rms, double epsilon) {
  CAPSTAN_CHECK(!rms || !bias.present(), "rms norm has no bias");
  const auto op = std::make_shared<Norm>(rms, epsilon, residual.present(), 1);
  const std::vector<Value> out = recorder.record(op, {x, residual, weight, bias});
  return {out[0], residual.present() ? out[static_cast<size_t>(op->sum_output())] : x};
}

Value norm_heads(Recorder& recorder, Value x, Value weight, int64_t heads, double epsilon) {
  return recorder.record(std::make_shared<Norm>(true, epsilon, false, heads), {x, {}, weight, {}}).at(0);
}

}  // namespace capstan
