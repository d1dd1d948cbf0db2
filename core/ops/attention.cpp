#include "core/ops/attention.h"

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/attention_base.h"
#include "core/ops/ring_attention.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

class AttentionGradient final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string_view name() const override { return "attention gradient"; }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(in, out, 1);
  }
  Bound bind(const BindContext& c) const override {
    const kernels::AttentionShape shape = local_shape_of(c);
    const auto self = std::make_shared<AttentionGradient>(*this);  // the closure may outlive the tape
    const size_t offset = offset_of_heads(c);
    const int64_t kv_count = element_count(c.in_local[kK]);
    const bool some_heads = shape.kv_heads * shape.head_size < shape.kv_stride;  // the others get 0 from this rank
    return {c.backend.attention_backward_scratch(shape),
            [self, run = c.backend.attention_backward, fill = c.backend.fill, shape, offset, kv_count, some_heads,
             learned = learned_results(c.has_in)](const RunArgs& a) {
              for (const int i : {1, 2})
                if (some_heads) fill({a.out[i], kv_count, 0.0, shape.dtype, a.stream});
              kernels::AttentionBackwardArgs args;
              args.shape = shape;
              self->point_operands(args, a, offset);
              args.o = a.in[kOutput], args.logsumexp = a.in[kLogsumexp], args.d_o = a.in[kOutputGradient];
              args.dq = a.out[0];
              args.dk = static_cast<char*>(a.out[1]) + offset, args.dv = static_cast<char*>(a.out[2]) + offset;
              const auto result = [&](size_t i) { return learned[i] < 0 ? nullptr : a.out[learned[i]]; };
              args.d_distance_bias = result(0), args.d_relative_q = result(1), args.d_relative_k = result(2);
              args.stream = a.stream;
              run(args);
            }};
  }

 protected:
  bool is_gradient() const override { return true; }
};

class Attention final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string_view name() const override { return "attention"; }
  Kept kept() const override { return kKeptByAttention; }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(in, out, 1);
  }
  void adjoint(Adjoint& a) const override {
    record_attention_gradient(a, std::make_shared<AttentionGradient>(spec_, rules_));
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
              args.stream = a.stream;
              run(args);
            }};
  }

 protected:
  bool is_gradient() const override { return false; }
};

class Rotary final : public Op {
 public:
  Rotary(const RotarySpec& spec, bool backward) : spec_(spec), backward_(backward) {}
  std::string_view name() const override { return backward_ ? "rotary gradient" : "rotary"; }
  std::string attributes() const override {
    const kernels::RotaryScale& s = spec_.scale;
    const std::string scaled = s.kind == kernels::RotaryScale::Kind::none
                                   ? ""
                                   : fmt::format(" scale {}: {} {} {} {} {}", static_cast<int>(s.kind), s.factor, s.low,
                                                 s.high, s.context, s.amplitude);
    return fmt::format("h={} dims={} base={}{}{}", spec_.heads, spec_.rotary_dims, spec_.base, scaled,
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
    args.base = spec_.base, args.scale = spec_.scale, args.interleaved = spec_.interleaved;
    args.backward = backward_;
    args.dtype = c.in[0].dtype;
    return {0, [run = c.backend.rotary, args](const RunArgs& a) {
              kernels::RotaryArgs now = args;
              now.x = a.in[0], now.positions = static_cast<const int32_t*>(a.in[1]), now.y = a.out[0];
              now.stream = a.stream;
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
              now.stream = a.stream;
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
  const MaskRules rules{mask.causal, mask.window};
  const bool divided = on(recorder.spec(q).placements, Axis::cp).is_shard();
  const OpPtr op = divided ? make_ring_attention(used, rules, recorder.mesh().size(Axis::cp))
                           : std::make_shared<Attention>(used, rules);
  return recorder
      .record(op, {q, k, v, mask.query_documents, mask.key_documents, mask.key_lengths, mask.prefix_lengths,
                   mask.alibi_slopes, mask.distance_bias, mask.relative_q, mask.relative_k, random})
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
