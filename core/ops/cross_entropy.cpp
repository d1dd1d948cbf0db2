#include "core/ops/cross_entropy.h"

#include <cstddef>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

class CrossEntropyGradient final : public Op {
 public:
  explicit CrossEntropyGradient(int64_t vocabulary) : vocabulary_(vocabulary) {}
  std::string_view name() const override { return "cross-entropy gradient"; }
  std::string attributes() const override { return fmt::format("v={}", vocabulary_); }
  // inputs: logits, targets, weights, logsumexp, step.scalars -> dlogits
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return alike_on_leading(rank_of(in[1]), {true, true, true, true, false}, {true});
  }
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  Bound bind(const BindContext& c) const override {
    kernels::CrossEntropyBackwardArgs args;
    args.rows = row_count(c.in_local[0]);
    args.padded = c.in_local[0].back();
    args.vocabulary = vocabulary_;
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cross_entropy_backward, cast = c.backend.cast, args](const RunArgs& a) {
              kernels::CrossEntropyBackwardArgs now = args;
              if (a.in[0] != a.out[0]) cast({a.in[0], a.out[0], args.rows * args.padded, args.dtype, args.dtype});
              now.logits = a.out[0];
              now.targets = static_cast<const int32_t*>(a.in[1]), now.weights = static_cast<const float*>(a.in[2]);
              now.logsumexp = a.in[3];
              now.gradient_scale = &static_cast<const kernels::StepScalars*>(a.in[4])->gradient_scale;
              run(now);
            }};
  }

 private:
  int64_t vocabulary_;
};

class CrossEntropy final : public Op {
 public:
  explicit CrossEntropy(int64_t vocabulary) : vocabulary_(vocabulary) {}
  std::string_view name() const override { return "cross-entropy"; }
  std::string attributes() const override { return fmt::format("v={}", vocabulary_); }
  bool is_loss() const override { return true; }
  // inputs: logits, targets, weights, step.scalars -> loss_sum, logsumexp, nll
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[0].spec.shape.back() >= vocabulary_ && row_count(in[0].spec.shape) == in[1].spec.elements() &&
                      in[1].spec.shape == in[2].spec.shape && in[1].spec.dtype == DType::i32 &&
                      in[2].spec.dtype == DType::f32,
                  "cross-entropy: logits {}, targets {}, weights {}", to_string(in[0].spec), to_string(in[1].spec),
                  to_string(in[2].spec));
    const TensorSpec statistic{in[1].spec.shape, accumulation_of(in[0].spec.dtype)};
    return {{{1}, DType::f64}, statistic, statistic};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = alike_on_leading(rank_of(in[1]), {true, true, true, false}, {false, true, true});
    for (Signature& rule : rules)
      if (rule.outputs[1].is_shard()) rule.outputs[0] = Partial;
    return rules;
  }
  Kept kept() const override { return {0b1111, 0b010}; }
  void adjoint(Adjoint& a) const override {
    a.contribute(0, a.recorder().record_one(std::make_shared<CrossEntropyGradient>(vocabulary_),
                                            {a.input(0), a.input(1), a.input(2), a.output(1), a.input(3)},
                                            Purpose::gradient_activation));
  }
  Bound bind(const BindContext& c) const override {
    kernels::CrossEntropyArgs args;
    args.rows = row_count(c.in_local[0]);
    args.padded = c.in_local[0].back();
    args.vocabulary = vocabulary_;
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cross_entropy, args](const RunArgs& a) {
              kernels::CrossEntropyArgs now = args;
              now.logits = a.in[0];
              now.targets = static_cast<const int32_t*>(a.in[1]), now.weights = static_cast<const float*>(a.in[2]);
              now.loss_sum = static_cast<double*>(a.out[0]), now.logsumexp = a.out[1], now.nll = a.out[2];
              now.accumulate = a.accumulate;
              run(now);
            }};
  }

 private:
  int64_t vocabulary_;
};

}  // namespace

CrossEntropyResult cross_entropy(Recorder& recorder, Value logits, Value targets, Value weights, Value loss_sum,
                                 int64_t vocabulary) {
  const std::vector<Value> out = recorder.record_into(std::make_shared<CrossEntropy>(vocabulary),
                                                      {logits, targets, weights, recorder.persistent("step.scalars")},
                                                      {loss_sum}, Accumulate::after_first_microbatch);
  return {out[2]};
}

}  // namespace capstan
