#include "core/ops/attention.h"

#include <algorithm>
#include <cstring>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

struct MaskRules {
  bool causal;
  int64_t window;
};

enum Operand : int {
  kQ,
  kK,
  kV,
  kQueryDocuments,
  kKeyDocuments,
  kKeyLengths,
  kPrefixLengths,
  kSlopes,
  kRandom,
  kOperands
};

/// What both directions share: shape, mask pointers, dropout and the forward cost.
class AttentionBase : public Op {
 public:
  AttentionBase(const AttentionSpec& spec, const MaskRules& rules) : spec_(spec), rules_(rules) {}
  std::string attributes() const override {
    return fmt::format("h={} kv={} scale={}{} window={} dropout={} site={}", spec_.heads, spec_.kv_heads, spec_.scale,
                       rules_.causal ? " causal" : "", rules_.window, spec_.dropout, spec_.site);
  }

 protected:
  kernels::AttentionShape local_shape_of(const BindContext& c) const {
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
    return shape;
  }
  /// The key/value heads, counted from the first that this rank holds, that its query heads read. All that it holds
  /// where both are sharded alike; one, or a run, of them where keys and values are whole beside sharded queries.
  Extent heads_read(const BindContext& c) const {
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
  /// Bytes from the start of keys and values to the first head that is read.
  size_t offset_of_heads(const BindContext& c) const {
    return static_cast<size_t>(heads_read(c).first * (c.in[kQ].shape.back() / spec_.heads)) * bytes_of(c.in[kQ].dtype);
  }
  template <typename Args>
  void point_operands(Args& args, const RunArgs& a, size_t offset) const {
    args.q = a.in[kQ];
    args.k = static_cast<const char*>(a.in[kK]) + offset, args.v = static_cast<const char*>(a.in[kV]) + offset;
    args.mask.query_documents = static_cast<const int32_t*>(a.in[kQueryDocuments]);
    args.mask.key_documents = static_cast<const int32_t*>(a.in[kKeyDocuments]);
    args.mask.key_lengths = static_cast<const int32_t*>(a.in[kKeyLengths]);
    args.mask.prefix_lengths = static_cast<const int32_t*>(a.in[kPrefixLengths]);
    args.mask.alibi_slopes = static_cast<const float*>(a.in[kSlopes]);
    args.dropout.probability = spec_.dropout;
    args.dropout.stream = spec_.site;
    args.dropout.key = static_cast<const uint64_t*>(a.in[kRandom]);
    args.dropout.first_sample = a.in[kRandom] ? args.dropout.key + 1 : nullptr;
    args.scratch = a.scratch;
  }
  /// What the mask and dropout read must be as long as what they are read for.
  void check_operands(std::span<const InputSpec> in) const {
    const int64_t batch = in[kQ].spec.shape[0];
    const auto check = [&](Operand operand, const Shape& shape, DType dtype) {
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
    CAPSTAN_CHECK(in[kQueryDocuments].present == in[kKeyDocuments].present,
                  "{}: documents of queries and keys come together", name());
  }
  /// FLOPs of `products` T x T products, counting the half of them that a causal mask leaves.
  Cost product_cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out, double products) const {
    const double batch = static_cast<double>(in[kQ].shape[0]), queries = static_cast<double>(in[kQ].shape[1]);
    double keys = static_cast<double>(in[kK].shape[1]);
    if (rules_.window > 0) keys = std::min(keys, static_cast<double>(rules_.window));
    const double visible =
        rules_.causal && rules_.window == 0 && queries == keys ? queries * (keys + 1) / 2 : queries * keys;
    Cost cost = Op::cost(in, out);
    cost.flops = products * 2.0 * batch * visible * static_cast<double>(in[kQ].shape[2]);
    return cost;
  }
  /// Batch, or heads: the operands that carry them are sharded alike.
  std::vector<Signature> placement_rules(size_t extra, size_t outputs) const {
    std::vector<bool> batch(kOperands, true);
    batch[kSlopes] = batch[kRandom] = false;
    batch.resize(kOperands + extra, true);
    std::vector<Signature> rules = alike_on_leading(1, batch, std::vector<bool>(outputs, true));
    Signature heads = all_replicate(kOperands + extra, outputs);
    for (const int i : {kQ, kK, kV}) heads.inputs[static_cast<size_t>(i)] = Shard(2);
    heads.inputs[kSlopes] = Shard(0);
    shard_heads(heads, Shard(2));
    rules.push_back(heads);
    heads.inputs[kK] = heads.inputs[kV] = Replicate;  // fewer key/value heads than ranks: each rank reads its own
    shard_heads(heads, Partial);
    rules.push_back(heads);
    return rules;
  }
  /// Adds what a direction has beside the operands; kv: how the gradients of keys and values come out.
  virtual void shard_heads(Signature& heads, Placement kv) const = 0;

  AttentionSpec spec_;
  MaskRules rules_;
};

class AttentionGradient final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string_view name() const override { return "attention gradient"; }
  // inputs: the forward operands, then o, logsumexp, do -> dq, dk, dv
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const DType dtype = in[kQ].spec.dtype;
    check_operands(in);
    return {{in[kQ].spec.shape, dtype}, {in[kK].spec.shape, dtype}, {in[kV].spec.shape, dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return placement_rules(3, 3); }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(in, out, 5);
  }
  Bound bind(const BindContext& c) const override {
    const kernels::AttentionShape shape = local_shape_of(c);
    const auto self = std::make_shared<AttentionGradient>(*this);  // the closure may outlive the tape
    const size_t offset = offset_of_heads(c);
    const size_t kv_bytes = static_cast<size_t>(element_count(c.in_local[kK])) * bytes_of(shape.dtype);
    const bool some_heads = shape.kv_heads * shape.head_size < shape.kv_stride;  // the others get 0 from this rank
    return {c.backend.attention_backward_scratch(shape),
            [self, run = c.backend.attention_backward, shape, offset, kv_bytes, some_heads](const RunArgs& a) {
              if (some_heads) std::memset(a.out[1], 0, kv_bytes), std::memset(a.out[2], 0, kv_bytes);
              kernels::AttentionBackwardArgs args;
              args.shape = shape;
              self->point_operands(args, a, offset);
              args.o = a.in[kOperands], args.logsumexp = a.in[kOperands + 1], args.d_o = a.in[kOperands + 2];
              args.dq = a.out[0];
              args.dk = static_cast<char*>(a.out[1]) + offset, args.dv = static_cast<char*>(a.out[2]) + offset;
              run(args);
            }};
  }

 protected:
  void shard_heads(Signature& heads, Placement kv) const override {
    heads.inputs[kOperands] = heads.inputs[kOperands + 2] = Shard(2);
    heads.inputs[kOperands + 1] = Shard(1);
    heads.outputs = {Shard(2), kv, kv};
  }
};

class Attention final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string_view name() const override { return "attention"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    const TensorSpec &q = in[kQ].spec, &k = in[kK].spec;
    CAPSTAN_CHECK(q.shape.size() == 3 && k.shape.size() == 3 && k.shape == in[kV].spec.shape &&
                      q.shape[0] == k.shape[0] && q.shape[2] % spec_.heads == 0 &&
                      k.shape[2] == q.shape[2] / spec_.heads * spec_.kv_heads,
                  "attention: q {}, k {}, v {}, {} heads, {} key/value heads", to_string(q), to_string(k),
                  to_string(in[kV].spec), spec_.heads, spec_.kv_heads);
    check_operands(in);
    return {{q.shape, q.dtype}, {{q.shape[0], spec_.heads, q.shape[1]}, accumulation_of(q.dtype)}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return placement_rules(0, 2); }
  Kept kept() const override { return {(1u << kOperands) - 1, 0b11}; }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(in, out, 2);
  }

  void adjoint(Adjoint& a) const override {
    std::vector<Value> inputs;
    for (int i = 0; i < kOperands; ++i) inputs.push_back(a.has_input(i) ? a.input(i) : Value{});
    inputs.insert(inputs.end(), {a.output(0), a.output(1), a.gradient(0)});
    const std::vector<Value> gradients =
        a.recorder().record(std::make_shared<AttentionGradient>(spec_, rules_), inputs, Purpose::gradient_activation);
    for (const int i : {kQ, kK, kV}) a.contribute(i, gradients[static_cast<size_t>(i)]);
  }

  Bound bind(const BindContext& c) const override {
    const kernels::AttentionShape shape = local_shape_of(c);
    const auto self = std::make_shared<Attention>(*this);
    const size_t offset = offset_of_heads(c);
    return {c.backend.attention_scratch(shape), [self, run = c.backend.attention, shape, offset](const RunArgs& a) {
              kernels::AttentionArgs args;
              args.shape = shape;
              self->point_operands(args, a, offset);
              args.o = a.out[0], args.logsumexp = a.out[1];
              run(args);
            }};
  }

 protected:
  void shard_heads(Signature& heads, Placement) const override { heads.outputs = {Shard(2), Shard(1)}; }
};

class Rotary final : public Op {
 public:
  Rotary(const RotarySpec& spec, bool backward) : spec_(spec), backward_(backward) {}
  std::string_view name() const override { return backward_ ? "rotary gradient" : "rotary"; }
  std::string attributes() const override {
    return fmt::format("h={} dims={} base={} scaling={}{}", spec_.heads, spec_.rotary_dims, spec_.base, spec_.scaling,
                       spec_.interleaved ? " interleaved" : "");
  }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[0].spec.shape.back() % spec_.heads == 0 && in[1].spec.dtype == DType::i32 &&
                      in[1].spec.elements() == row_count(in[0].spec.shape),
                  "rotary: {} over {} heads, positions {}", to_string(in[0].spec), spec_.heads, to_string(in[1].spec));
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = alike_on_leading(rank_of(in[0]) - 1, {true, true}, {true});
    rules.push_back({{Shard(2), Replicate}, {Shard(2)}});
    rules.push_back({{Partial, Replicate}, {Partial}});  // a rotation is linear
    return rules;
  }
  Kept kept() const override { return {0b10, 0}; }
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    a.contribute(0, a.recorder().record_one(std::make_shared<Rotary>(spec_, true), {a.gradient(0), a.input(1)},
                                            Purpose::gradient_activation));
  }
  Bound bind(const BindContext& c) const override {
    kernels::RotaryArgs args;
    args.rows = row_count(c.in_local[0]);
    args.head_size = c.in[0].shape.back() / spec_.heads;
    args.heads = c.in_local[0].back() / args.head_size;
    args.rotary_dims = spec_.rotary_dims;
    args.stride = c.in_local[0].back();
    args.base = spec_.base, args.scaling = spec_.scaling, args.interleaved = spec_.interleaved;
    args.backward = backward_;
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.rotary, args](const RunArgs& a) {
              kernels::RotaryArgs now = args;
              now.x = a.in[0], now.positions = static_cast<const int32_t*>(a.in[1]), now.y = a.out[0];
              run(now);
            }};
  }

 private:
  RotarySpec spec_;
  bool backward_;
};

class CacheAppend final : public Op {
 public:
  std::string_view name() const override { return "cache append"; }
  // inputs: x, key_lengths, cache -> cache (the same memory)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[0].spec.shape[0] == in[2].spec.shape[0] && in[0].spec.shape[2] == in[2].spec.shape[2],
                  "cache append: {} into {}", to_string(in[0].spec), to_string(in[2].spec));
    return {{in[2].spec.shape, in[2].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override {
    return {all_replicate(3, 1),
            {{Shard(0), Shard(0), Shard(0)}, {Shard(0)}},
            {{Shard(2), Replicate, Shard(2)}, {Shard(2)}}};
  }
  Bound bind(const BindContext& c) const override {
    kernels::CacheAppendArgs args;
    args.batch = c.in_local[0][0], args.rows = c.in_local[0][1], args.width = c.in_local[0][2];
    args.capacity = c.out_local[0][1];
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.cache_append, args](const RunArgs& a) {
              kernels::CacheAppendArgs now = args;
              now.x = a.in[0], now.key_lengths = static_cast<const int32_t*>(a.in[1]), now.cache = a.out[0];
              run(now);
            }};
  }
};

}  // namespace

Value attention(Recorder& recorder, Value q, Value k, Value v, const AttentionSpec& spec,
                const AttentionMaskSpec& mask) {
  AttentionSpec used = spec;
  if (!recorder.training()) used.dropout = 0.0;
  const Value random = used.dropout > 0.0 ? recorder.persistent("step.random") : Value{};
  return recorder
      .record(std::make_shared<Attention>(used, MaskRules{mask.causal, mask.window}),
              {q, k, v, mask.query_documents, mask.key_documents, mask.key_lengths, mask.prefix_lengths,
               mask.alibi_slopes, random})
      .at(0);
}

Value rotary(Recorder& recorder, Value x, Value positions, const RotarySpec& spec) {
  return recorder.record_one(std::make_shared<Rotary>(spec, false), {x, positions});
}

Value append_to_cache(Recorder& recorder, Value x, Value key_lengths, Value cache) {
  return recorder.record_into(std::make_shared<CacheAppend>(), {x, key_lengths, cache}, {cache}, Accumulate::never)
      .at(0);
}

}  // namespace capstan
