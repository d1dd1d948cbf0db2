#include "core/ops/attention_base.h"

#include <algorithm>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {

std::string AttentionBase::attributes() const {
  return fmt::format("h={} kv={} scale={}{} window={} dropout={} site={}", spec_.heads, spec_.kv_heads, spec_.scale,
                     rules_.causal ? " causal" : "", rules_.window, spec_.dropout, spec_.site);
}

std::vector<TensorSpec> AttentionBase::infer(std::span<const InputSpec> in) const {
  const TensorSpec &q = in[kQ].spec, &k = in[kK].spec, &v = in[kV].spec;
  CAPSTAN_CHECK(q.shape.size() == 3 && k.shape.size() == 3 && k.shape == v.shape && q.shape[0] == k.shape[0] &&
                    q.shape[2] % spec_.heads == 0 && k.shape[2] == q.shape[2] / spec_.heads * spec_.kv_heads,
                "{}: q {}, k {}, v {}, {} heads, {} key/value heads", name(), to_string(q), to_string(k), to_string(v),
                spec_.heads, spec_.kv_heads);
  check_operands(in);
  if (is_gradient()) {
    std::vector<TensorSpec> gradients{{q.shape, q.dtype}, {k.shape, q.dtype}, {v.shape, q.dtype}};
    for (const AttentionOperand operand : kLearned)
      if (in[operand].present) gradients.push_back({in[operand].spec.shape, q.dtype});
    return gradients;
  }
  return {{q.shape, q.dtype}, {{q.shape[0], spec_.heads, q.shape[1]}, accumulation_of(q.dtype)}};
}

/// Batch, or heads: the operands that carry them are divided alike.
std::vector<Signature> AttentionBase::signatures(std::span<const InputSpec> in) const {
  const size_t operands = kAttentionOperands, extra = is_gradient() ? 3 : 0, outputs = is_gradient() ? 3 : 2;
  std::vector<bool> batch(operands, true);
  batch[kSlopes] = batch[kRandom] = batch[kDistanceBias] = batch[kRelativeK] = false;
  batch.resize(operands + extra, true);
  std::vector<Signature> rules = alike_on_leading(1, batch, std::vector<bool>(outputs, true));
  // kv: how the gradients of keys and values come out.
  const auto by_heads = [&](Placement of_kv, Placement kv) {
    Signature heads = all_replicate(operands + extra, outputs);
    heads.inputs[kQ] = Shard(2), heads.inputs[kK] = heads.inputs[kV] = of_kv, heads.inputs[kSlopes] = Shard(0);
    heads.inputs[kDistanceBias] = heads.inputs[kRelativeK] = Shard(1), heads.inputs[kRelativeQ] = Shard(2);
    heads.outputs = {Shard(2), Shard(1)};
    if (is_gradient()) {
      std::copy_n(std::array{Shard(2), Shard(1), Shard(2)}.begin(), 3, heads.inputs.begin() + kAttentionOperands);
      heads.outputs = {Shard(2), kv, kv};
    }
    return heads;
  };
  rules.push_back(by_heads(Shard(2), Shard(2)));
  rules.push_back(by_heads(Replicate, Partial));  // fewer key/value heads than ranks: each rank reads its own
  if (is_gradient())
    for (Signature& rule : rules) place_learned(in, rule);
  return rules;
}

/// Gradients of what is divided as its operand come out so; of what is read whole by ranks of different tokens, as
/// addends.
void AttentionBase::place_learned(std::span<const InputSpec> in, Signature& rule) {
  const bool tokens_differ = rule.inputs[kQ].is_shard() && rule.inputs[kQ].dim < 2;
  for (const AttentionOperand operand : kLearned)
    if (in[operand].present)
      rule.outputs.push_back(rule.inputs[operand].is_replicate() && tokens_differ ? Partial : rule.inputs[operand]);
}

std::array<int, kLearned.size()> AttentionBase::learned_results(const std::vector<bool>& has_in) {
  std::array<int, kLearned.size()> results{};
  int next = 3;
  for (size_t i = 0; i < kLearned.size(); ++i) results[i] = has_in[static_cast<size_t>(kLearned[i])] ? next++ : -1;
  return results;
}

kernels::AttentionShape AttentionBase::local_shape_of(const BindContext& c) const {
  kernels::AttentionShape shape;
  shape.batch = c.in_local[kQ][0];
  shape.queries = c.in_local[kQ][1];
  shape.keys = c.in_local[kK][1];
  shape.head_size = c.in[kQ].shape.back() / spec_.heads;
  shape.heads = c.in_local[kQ][2] / shape.head_size;
  shape.kv_heads = heads_read(c).count;
  shape.first_head = local_extents(c.in[kQ], c.mesh)[2].first / shape.head_size;
  shape.all_heads = spec_.heads;
  shape.q_stride = shape.o_stride = c.in_local[kQ][2];
  shape.kv_stride = c.in_local[kK][2];
  shape.scale = spec_.scale;
  shape.causal = rules_.causal;
  shape.window = rules_.window;
  shape.dtype = c.in[kQ].dtype;
  if (c.has_in[kDistanceBias]) shape.bias_distances = c.in[kDistanceBias].shape[0];
  if (c.has_in[kRelativeK]) shape.relative_distances = c.in[kRelativeK].shape[0];
  return shape;
}

Extent AttentionBase::heads_read(const BindContext& c) const {
  const int64_t size = c.in[kQ].shape.back() / spec_.heads, group = spec_.heads / spec_.kv_heads;
  const Extent q = local_extents(c.in[kQ], c.mesh)[2], kv = local_extents(c.in[kK], c.mesh)[2];
  const int64_t first = q.first / size, heads = q.count / size;
  const Extent read{first / group - kv.first / size, std::max<int64_t>(1, heads / group)};
  CAPSTAN_CHECK((group % heads == 0 || (heads % group == 0 && first % group == 0)) && read.first >= 0 &&
                    (read.first + read.count) * size <= kv.count,
                "{}: query heads {} to {} of {} cannot share {} key/value heads (q {}, k {})", name(), first,
                first + heads, spec_.heads, spec_.kv_heads, to_string(c.in[kQ]), to_string(c.in[kK]));
  return read;
}

size_t AttentionBase::offset_of_heads(const BindContext& c) const {
  return static_cast<size_t>(heads_read(c).first * (c.in[kQ].shape.back() / spec_.heads)) * bytes_of(c.in[kQ].dtype);
}

void AttentionBase::check_operands(std::span<const InputSpec> in) const {
  const int64_t batch = in[kQ].spec.shape[0];
  const auto check = [&](AttentionOperand operand, const Shape& shape, DType dtype) {
    const InputSpec& given = in[operand];
    CAPSTAN_CHECK(!given.present || (given.spec.shape == shape && given.spec.dtype == dtype),
                  "{}: operand {} is {}, wanted {}{}", name(), static_cast<int>(operand), to_string(given.spec),
                  capstan::name_of(dtype), to_string(shape));
  };
  check(kQueryDocuments, {batch, in[kQ].spec.shape[1]}, DType::i32);
  check(kKeyDocuments, {batch, in[kK].spec.shape[1]}, DType::i32);
  check(kKeyLengths, {batch}, DType::i32);
  check(kPrefixLengths, {batch}, DType::i32);
  check(kSlopes, {spec_.heads}, DType::f32);
  check(kRandom, {2}, DType::i64);
  check(kRelativeQ, in[kQ].spec.shape, in[kQ].spec.dtype);
  if (in[kDistanceBias].present)
    check(kDistanceBias, {in[kDistanceBias].spec.shape[0], spec_.heads}, in[kQ].spec.dtype);
  if (in[kRelativeK].present)
    check(kRelativeK, {in[kRelativeK].spec.shape[0], in[kQ].spec.shape[2]}, in[kQ].spec.dtype);
  CAPSTAN_CHECK(in[kRelativeQ].present == in[kRelativeK].present, "{}: relative q and k come together", name());
  CAPSTAN_CHECK(in[kQueryDocuments].present == in[kKeyDocuments].present,
                "{}: documents of queries and keys come together", name());
}

Cost AttentionBase::product_cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out, int ranks) const {
  const double batch = static_cast<double>(in[kQ].shape[0]);
  const double queries = static_cast<double>(in[kQ].shape[1] * ranks);
  double keys = static_cast<double>(in[kK].shape[1] * ranks);
  if (rules_.window > 0) keys = std::min(keys, static_cast<double>(rules_.window));
  const double visible =  // a causal mask leaves about half
      rules_.causal && rules_.window == 0 && queries == keys ? queries * (keys + 1) / 2 : queries * keys;
  const bool relative = in[kRelativeK].shape.size() == 2;  // one product more forward, three backward
  const double products = (is_gradient() ? 5 : 2) + (relative ? (is_gradient() ? 3 : 1) : 0);
  Cost cost = Op::cost(in, out);
  cost.flops = products * 2.0 * batch * visible / ranks * static_cast<double>(in[kQ].shape[2]);
  return cost;
}

void record_attention_gradient(Adjoint& a, OpPtr gradient) {
  std::vector<Value> inputs;
  for (int i = 0; i < kAttentionOperands; ++i) inputs.push_back(a.has_input(i) ? a.input(i) : Value{});
  inputs.insert(inputs.end(), {a.output(0), a.output(1), a.gradient(0)});
  const std::vector<Value> gradients = a.recorder().record(std::move(gradient), inputs, Purpose::gradient_activation);
  for (const int i : {kQ, kK, kV}) a.contribute(i, gradients[static_cast<size_t>(i)]);
  size_t next = 3;
  for (const int i : kLearned)
    if (a.has_input(i)) a.contribute(i, gradients[next++]);
}

}  // namespace capstan
