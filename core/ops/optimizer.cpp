#include "core/ops/optimizer.h"

#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

class BeginStep final : public Op {
 public:
  explicit BeginStep(const AdamWSpec& spec) : spec_(spec) {}
  std::string_view name() const override { return "begin step"; }
  std::string attributes() const override { return fmt::format("b1={} b2={}", spec_.beta1, spec_.beta2); }
  // inputs: weights, step.scalars, own weight -> step.scalars, own weight
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    std::vector<TensorSpec> out{{in[1].spec.shape, in[1].spec.dtype}};
    if (in[2].present) out.push_back({in[2].spec.shape, in[2].spec.dtype});
    return out;
  }
  // The own weights of all ranks are one long tensor.
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    if (!in[2].present) return {all_replicate(3, 1)};
    return {all_replicate(3, 2), {{Replicate, Replicate, Shard(0)}, {Replicate, Shard(0)}}};
  }
  Bound bind(const BindContext& c) const override {
    kernels::BeginStepArgs args;
    args.beta1 = spec_.beta1, args.beta2 = spec_.beta2;
    return {0, [run = c.backend.begin_step, args, own = c.has_in[2]](const RunArgs& a) {
              kernels::BeginStepArgs now = args;
              now.weights = static_cast<const double*>(a.in[0]);
              now.scalars = static_cast<kernels::StepScalars*>(a.out[0]);
              now.own_weight = own ? static_cast<double*>(a.out[1]) : nullptr;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  AdamWSpec spec_;
};

class SquareSum final : public Op {
 public:
  std::string_view name() const override { return "square sum"; }
  // inputs: x, weight, scratch -> sum, scratch
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    std::vector<TensorSpec> out{{{1}, DType::f64}};
    if (in[2].present) out.push_back({in[2].spec.shape, in[2].spec.dtype});
    return out;
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    const std::vector<Placement> scratch(in[2].present ? 1 : 0, Replicate);
    std::vector<Placement> whole{Replicate}, partial{Partial};
    whole.insert(whole.end(), scratch.begin(), scratch.end());
    partial.insert(partial.end(), scratch.begin(), scratch.end());
    return {{{Replicate, Replicate, Replicate}, whole}, {{Shard(0), Shard(0), Replicate}, partial}};
  }
  Bound bind(const BindContext& c) const override {
    kernels::SquareSumArgs args;
    args.count = element_count(c.in_local[0]);
    args.dtype = c.in[0].dtype;
    return {c.has_in[2] ? 0 : c.backend.square_sum_scratch(), [run = c.backend.square_sum, args](const RunArgs& a) {
              kernels::SquareSumArgs now = args;
              now.x = a.in[0], now.sum = static_cast<double*>(a.out[0]), now.weight = static_cast<double*>(a.in[1]);
              now.accumulate = a.accumulate, now.scratch = a.in[2] ? a.out[1] : a.scratch;
              now.stream = a.stream;
              run(now);
            }};
  }
};

class Clip final : public Op {
 public:
  std::string_view name() const override { return "clip"; }
  // inputs: square sums, step.scalars -> step.scalars
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[1].spec.shape, in[1].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {all_replicate(2, 1)}; }
  Bound bind(const BindContext& c) const override {
    return {0, [run = c.backend.clip, count = element_count(c.in_local[0])](const RunArgs& a) {
              run({static_cast<const double*>(a.in[0]), static_cast<kernels::StepScalars*>(a.out[0]), count, a.stream});
            }};
  }
};

class NotFinite final : public Op {
 public:
  std::string_view name() const override { return "not finite"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  // A rank looks at what it holds itself, be it an addend.
  std::vector<Signature> signatures(std::span<const InputSpec>) const override {
    return {all_replicate(1, 1), {{Partial}, {Partial}}};
  }
  Bound bind(const BindContext& c) const override {
    return {0, [run = c.backend.not_finite](const RunArgs& a) {
              run({static_cast<const double*>(a.in[0]), static_cast<double*>(a.out[0]), a.stream});
            }};
  }
};

class AdamW final : public Op {
 public:
  explicit AdamW(const AdamWSpec& spec) : spec_(spec) {}
  std::string_view name() const override { return "adamw"; }
  std::string attributes() const override {
    return fmt::format("b1={} b2={} eps={} decay={}", spec_.beta1, spec_.beta2, spec_.epsilon, spec_.weight_decay);
  }
  // inputs: gradient, step.scalars, master, moment1, moment2 (the last three are also outputs), working's dtype carrier
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    for (const size_t i : {0u, 3u, 4u})
      CAPSTAN_CHECK(in[i].spec.shape == in[2].spec.shape && in[i].spec.dtype == in[2].spec.dtype,
                    "adamw: operand {} is {}, the parameters {}", i, to_string(in[i].spec), to_string(in[2].spec));
    CAPSTAN_CHECK(!in[5].present || in[5].spec.shape == in[2].spec.shape, "adamw: working copies {}",
                  to_string(in[5].spec));
    std::vector<TensorSpec> out;
    for (int i = 2; i < 5; ++i)
      out.push_back({in[static_cast<size_t>(i)].spec.shape, in[static_cast<size_t>(i)].spec.dtype});
    if (in[5].present) out.push_back({in[5].spec.shape, in[5].spec.dtype});
    return out;
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return alike_on_leading(1, {true, false, true, true, true, true}, std::vector<bool>(in[5].present ? 4 : 3, true));
  }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec>) const override {
    const double count = static_cast<double>(in[0].elements());
    return {15.0 * count, count * (7.0 * static_cast<double>(bytes_of(in[0].dtype)) + (in.size() > 5 ? 2.0 : 0.0))};
  }
  Bound bind(const BindContext& c) const override {
    kernels::AdamWArgs args;
    args.beta1 = spec_.beta1, args.beta2 = spec_.beta2, args.epsilon = spec_.epsilon,
    args.weight_decay = spec_.weight_decay;
    args.count = element_count(c.in_local[0]);
    args.dtype = c.in[0].dtype;
    if (c.has_in[5]) args.working_dtype = c.in[5].dtype;
    return {0, [run = c.backend.adamw, args, working = c.has_in[5]](const RunArgs& a) {
              kernels::AdamWArgs now = args;
              now.gradient = a.in[0], now.scalars = static_cast<const kernels::StepScalars*>(a.in[1]);
              now.parameter = a.out[0], now.moment1 = a.out[1], now.moment2 = a.out[2];
              now.working = working ? a.out[3] : nullptr;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  AdamWSpec spec_;
};

}  // namespace

void record_begin_step(Recorder& recorder, const AdamWSpec& spec, Value weights, Value own_weight) {
  const Value scalars = recorder.persistent("step.scalars");
  std::vector<Value> outputs{scalars};
  if (own_weight.present()) outputs.push_back(own_weight);
  recorder.record_into(std::make_shared<BeginStep>(spec), {weights, scalars, own_weight}, outputs, Accumulate::never);
}

void record_square_sum(Recorder& recorder, Value x, Value sum) {
  recorder.record_into(std::make_shared<SquareSum>(), {x, Value{}, Value{}}, {sum}, Accumulate::never);
}

void record_weighted_square_sum(Recorder& recorder, Value x, Value weight, Value scratch, Value sum,
                                Accumulate accumulate) {
  recorder.record_into(std::make_shared<SquareSum>(), {x, weight, scratch}, {sum, scratch}, accumulate);
}

void record_clip(Recorder& recorder, Value sums) {
  const Value scalars = recorder.persistent("step.scalars");
  recorder.record_into(std::make_shared<Clip>(), {sums, scalars}, {scalars}, Accumulate::never);
}

void record_not_finite(Recorder& recorder, Value value, Value flag) {
  recorder.record_into(std::make_shared<NotFinite>(), {value}, {flag}, Accumulate::never);
}

void record_adamw(Recorder& recorder, const AdamWSpec& spec, Value gradient, Value master, Value moment1, Value moment2,
                  Value working) {
  std::vector<Value> outputs{master, moment1, moment2};
  if (working.present()) outputs.push_back(working);
  recorder.record_into(std::make_shared<AdamW>(spec),
                       {gradient, recorder.persistent("step.scalars"), master, moment1, moment2, working}, outputs,
                       Accumulate::never);
}

}  // namespace capstan
