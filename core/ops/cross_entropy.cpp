#include "core/ops/cross_entropy.h"

#include <algorithm>
#include <cstddef>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// Columns of a shard that lie within the vocabulary: the rest is padding.
int64_t columns_of_shard(int64_t vocabulary, int64_t first, int64_t columns) {
  return std::clamp<int64_t>(vocabulary - first, 0, columns);
}

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
    std::vector<Signature> rules = alike_on_leading(rank_of(in[1]), {true, true, true, true, false}, {true});
    const Placement vocabulary = Shard(rank_of(in[0]) - 1);
    rules.push_back({{vocabulary, Replicate, Replicate, Replicate, Replicate}, {vocabulary}});
    return rules;
  }
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  Bound bind(const BindContext& c) const override {
    kernels::CrossEntropyBackwardArgs args;
    args.rows = row_count(c.in_local[0]);
    args.padded = c.in_local[0].back();
    args.first = local_extents(c.in[0], c.mesh).back().first, args.all = vocabulary_;
    args.vocabulary = columns_of_shard(vocabulary_, args.first, args.padded);
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cross_entropy_backward, cast = c.backend.cast, args](const RunArgs& a) {
              kernels::CrossEntropyBackwardArgs now = args;
              if (a.in[0] != a.out[0])
                cast({a.in[0], a.out[0], args.rows * args.padded, args.dtype, args.dtype, a.stream});
              now.logits = a.out[0];
              now.targets = static_cast<const int32_t*>(a.in[1]), now.weights = static_cast<const float*>(a.in[2]);
              now.logsumexp = a.in[3];
              const auto* scalars = static_cast<const kernels::StepScalars*>(a.in[4]);
              now.gradient_scale = &scalars->gradient_scale, now.loss_scale = &scalars->loss_scale;
              now.stream = a.stream;
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
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  int64_t vocabulary_;
};

/// What a shard of the vocabulary says of each row: three numbers (kernels/cross_entropy.h), beside those of the
/// other shards. One collective brings them together; the logits stay where they are.
class CrossEntropyStatistics final : public Op {
 public:
  CrossEntropyStatistics(int64_t vocabulary, int64_t shards) : vocabulary_(vocabulary), shards_(shards) {}
  std::string_view name() const override { return "cross-entropy statistics"; }
  std::string attributes() const override { return fmt::format("v={} shards={}", vocabulary_, shards_); }
  // inputs: logits, targets -> statistics (batch, context, shards * 3)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    Shape shape = in[1].spec.shape;
    shape.push_back(shards_ * kernels::kCrossEntropyStatistics);
    return {{shape, accumulation_of(in[0].spec.dtype)}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = alike_on_leading(rank_of(in[1]), {true, true}, {true});
    const Placement vocabulary = Shard(rank_of(in[0]) - 1);
    rules.push_back({{vocabulary, Replicate}, {vocabulary}});
    return rules;
  }
  Kept kept() const override { return {}; }
  Bound bind(const BindContext& c) const override {
    kernels::CrossEntropyStatisticsArgs args;
    args.rows = row_count(c.in_local[0]);
    args.padded = c.in_local[0].back();
    args.first = local_extents(c.in[0], c.mesh).back().first;
    args.vocabulary = columns_of_shard(vocabulary_, args.first, args.padded);
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cross_entropy_statistics, args](const RunArgs& a) {
              kernels::CrossEntropyStatisticsArgs now = args;
              now.logits = a.in[0], now.targets = static_cast<const int32_t*>(a.in[1]), now.statistics = a.out[0];
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  int64_t vocabulary_, shards_;
};

/// The loss from the statistics of all shards. It names the logits as an operand for its adjoint's sake only.
class CrossEntropyOfShards final : public Op {
 public:
  CrossEntropyOfShards(int64_t vocabulary, int64_t shards) : vocabulary_(vocabulary), shards_(shards) {}
  std::string_view name() const override { return "cross-entropy of shards"; }
  std::string attributes() const override { return fmt::format("v={} shards={}", vocabulary_, shards_); }
  bool is_loss() const override { return true; }
  // inputs: logits, targets, weights, step.scalars, statistics -> loss_sum, logsumexp, nll
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[4].spec.shape.back() == shards_ * kernels::kCrossEntropyStatistics &&
                      row_count(in[4].spec.shape) == in[1].spec.elements() && in[1].spec.shape == in[2].spec.shape,
                  "cross-entropy of shards: statistics {}, targets {}, weights {}", to_string(in[4].spec),
                  to_string(in[1].spec), to_string(in[2].spec));
    const TensorSpec statistic{in[1].spec.shape, accumulation_of(in[0].spec.dtype)};
    return {{{1}, DType::f64}, statistic, statistic};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules =
        alike_on_leading(rank_of(in[1]), {true, true, true, false, true}, {false, true, true});
    for (Signature& rule : rules)
      if (rule.outputs[1].is_shard()) rule.outputs[0] = Partial;
    Signature vocabulary = all_replicate(5, 3);
    vocabulary.inputs[0] = Shard(rank_of(in[0]) - 1);
    rules.push_back(vocabulary);
    return rules;
  }
  Kept kept() const override { return {0b01111, 0b010}; }
  void adjoint(Adjoint& a) const override {
    a.contribute(0, a.recorder().record_one(std::make_shared<CrossEntropyGradient>(vocabulary_),
                                            {a.input(0), a.input(1), a.input(2), a.output(1), a.input(3)},
                                            Purpose::gradient_activation));
  }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec>) const override {
    return {0.0, static_cast<double>(in[4].elements() * bytes_of(in[4].dtype))};
  }
  Bound bind(const BindContext& c) const override {
    kernels::CrossEntropyCombineArgs args;
    args.rows = row_count(c.in_local[4]);
    args.shards = shards_;
    args.vocabulary = vocabulary_;
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cross_entropy_combine, args](const RunArgs& a) {
              kernels::CrossEntropyCombineArgs now = args;
              now.targets = static_cast<const int32_t*>(a.in[1]), now.weights = static_cast<const float*>(a.in[2]);
              now.statistics = a.in[4];
              now.loss_sum = static_cast<double*>(a.out[0]), now.logsumexp = a.out[1], now.nll = a.out[2];
              now.accumulate = a.accumulate;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  int64_t vocabulary_, shards_;
};

/// Ranks over which the last dim is divided.
int64_t shards_of_last_dim(const TensorSpec& spec, const Mesh& mesh) {
  int64_t shards = 1;
  const int last = static_cast<int>(spec.shape.size()) - 1;
  for (const Axis axis : kAllAxes)
    if (on(spec.placements, axis) == Shard(last)) shards *= mesh.size(axis);
  return shards;
}

}  // namespace

CrossEntropyResult cross_entropy(Recorder& recorder, Value logits, Value targets, Value weights, Value loss_sum,
                                 int64_t vocabulary) {
  std::vector<Value> inputs{logits, targets, weights, recorder.persistent("step.scalars")};
  const int64_t shards = shards_of_last_dim(recorder.spec(logits), recorder.mesh());
  OpPtr op = std::make_shared<CrossEntropy>(vocabulary);
  if (shards > 1) {
    inputs.push_back(recorder.record_one(std::make_shared<CrossEntropyStatistics>(vocabulary, shards),
                                         {logits, targets}, Purpose::statistic));
    op = std::make_shared<CrossEntropyOfShards>(vocabulary, shards);
  }
  return {recorder.record_into(std::move(op), inputs, {loss_sum}, Accumulate::after_first_microbatch)[2]};
}

}  // namespace capstan
