#include "core/models/decoder.h"

#include <cmath>

#include "core/error.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"

namespace capstan {
namespace {

kernels::ActivationKind kind_of(Activation activation) {
  using enum kernels::ActivationKind;
  switch (activation) {
    case Activation::gelu:
      return gelu;
    case Activation::gelu_tanh:
      return gelu_tanh;
    case Activation::relu:
      return relu;
    case Activation::squared_relu:
      return squared_relu;
    case Activation::swiglu:
      return silu;
    case Activation::geglu:
      return gelu;
  }
  return none;
}

kernels::RotaryScale scale_of(const DecoderConfig& config) {
  kernels::RotaryScale scale;
  scale.kind = static_cast<kernels::RotaryScale::Kind>(config.rotary_scaling);
  scale.factor = config.rotary_factor;
  scale.low = config.rotary_low, scale.high = config.high_frequency();
  scale.context = static_cast<double>(config.original_context());
  scale.amplitude = config.rotary_amplitude();
  return scale;
}

/// Dropout sites of a layer; embeddings use site 0.
enum Site : uint64_t { kAttentionWeights = 1, kAttentionOutput = 2, kMlpOutput = 3 };
uint64_t site_of(int64_t layer, Site site) { return static_cast<uint64_t>(layer) * 4 + site; }

}  // namespace

Value Decoder::apply(Recorder& recorder, const LinearParameters& parameters, Value x) const {
  return linear(recorder, x, recorder.parameter(parameters.weight),
                parameters.bias >= 0 ? recorder.parameter(parameters.bias) : Value{});
}

NormResult Decoder::normalise(Recorder& recorder, Value x, Value residual, const NormParameters& parameters) const {
  return norm(recorder, x, residual, recorder.parameter(parameters.weight),
              parameters.bias >= 0 ? recorder.parameter(parameters.bias) : Value{}, config_.norm == NormKind::rms,
              config_.norm_epsilon);
}

Value Decoder::dropped(Recorder& recorder, Value branch, uint64_t site) const {
  return dropout(recorder, branch, {}, config_.dropout, site);
}

Value Decoder::embed(Recorder& recorder, const DecoderInputs& inputs) const {
  Value x = embedding(recorder, inputs.tokens, recorder.parameter(token_embedding_), {});
  if (config_.token_scale() != 1.0) x = scale(recorder, x, config_.token_scale());
  x = recorder.as_stream(x);
  if (embedding_projection_.weight >= 0) x = apply(recorder, embedding_projection_, x);
  if (config_.positions == Positions::learned)
    x = embedding(recorder, inputs.positions, recorder.parameter(position_embedding_), x, config_.position_offset);
  if (config_.positions == Positions::sinusoidal)
    x = embedding(recorder, inputs.positions,
                  cast(recorder, recorder.persistent("positions.waves"), recorder.activations()), x);
  if (config_.embedding_norm) x = normalise(recorder, x, {}, embedding_norm_).y;
  return dropped(recorder, x, 0);
}

/// (distances, heads), looked up once for all layers.
Value Decoder::distance_bias(Recorder& recorder) const {
  if (config_.positions != Positions::t5) return {};
  return embedding(recorder, recorder.persistent("positions.buckets"), recorder.parameter(relative_bias_), {});
}

/// Rotated by its place.
Value Decoder::turn(Recorder& recorder, Value x, const DecoderInputs& inputs, int64_t heads) const {
  RotarySpec spec;
  spec.heads = heads;
  spec.rotary_dims = config_.rotary_dims();
  spec.base = config_.rotary_base;
  spec.scale = scale_of(config_);
  spec.interleaved = config_.rotary_interleaved;
  return rotary(recorder, x, inputs.positions, spec);
}

/// Transformer-XL's term: q becomes q + u, and the mask reads q + v against keys made of waves by distance.
void Decoder::relate(Recorder& recorder, const Layer& layer, Value& q, AttentionMaskSpec& mask) const {
  const Value waves = cast(recorder, recorder.persistent("distances.waves"), recorder.activations());
  mask.relative_k = apply(recorder, layer.relative, waves);
  mask.relative_q = add_row(recorder, q, recorder.parameter(layer.v_relative));
  q = add_row(recorder, q, recorder.parameter(layer.u));
}

Value Decoder::attend(Recorder& recorder, int64_t index, Value normed, const DecoderInputs& inputs,
                      const Shared& shared) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  normed = recorder.from_stream(normed);
  const Value asks =
      is_query_layer(index) ? embedding(recorder, inputs.positions, recorder.parameter(query_embedding_), {}) : normed;
  Value q = apply(recorder, layer.q, asks), k = apply(recorder, layer.k, normed), v = apply(recorder, layer.v, normed);
  if (config_.qk_norm) {
    q = norm_heads(recorder, q, recorder.parameter(layer.q_norm), config_.heads, config_.norm_epsilon);
    k = norm_heads(recorder, k, recorder.parameter(layer.k_norm), config_.kv(), config_.norm_epsilon);
  }
  if (config_.positions == Positions::rotary) {
    q = turn(recorder, q, inputs, config_.heads);
    k = turn(recorder, k, inputs, config_.kv());
  }
  if (!inputs.key_caches.empty()) {
    k = append_to_cache(recorder, k, inputs.key_lengths, inputs.key_caches[static_cast<size_t>(index)]);
    v = append_to_cache(recorder, v, inputs.key_lengths, inputs.value_caches[static_cast<size_t>(index)]);
  }
  AttentionMaskSpec mask;
  mask.window = config_.window_of(index);
  mask.query_documents = mask.key_documents = inputs.document_ids;
  mask.key_lengths = inputs.key_lengths;
  mask.prefix_lengths = inputs.prefix_lengths;
  mask.distance_bias = shared.distance_bias;
  if (config_.positions == Positions::alibi) mask.alibi_slopes = recorder.persistent("alibi.slopes");
  if (config_.positions == Positions::xl) relate(recorder, layer, q, mask);
  const AttentionSpec spec{config_.heads, config_.kv(), config_.score_scale(), config_.dropout,
                           site_of(index, kAttentionWeights)};
  return apply(recorder, layer.o, attention(recorder, q, k, v, spec, mask));
}

Value Decoder::mlp(Recorder& recorder, const Layer& layer, Value normed) const {
  const kernels::ActivationKind kind = kind_of(config_.activation);
  Value inner;
  if (config_.gated())
    inner = activate_gated(recorder, apply(recorder, layer.gate, normed), apply(recorder, layer.up, normed), kind);
  else if (recorder.training())
    inner = activate(recorder, apply(recorder, layer.up, normed), kind);
  else
    inner = linear(recorder, normed, recorder.parameter(layer.up.weight),
                   layer.up.bias >= 0 ? recorder.parameter(layer.up.bias) : Value{}, kind);
  return apply(recorder, layer.down, inner);
}

/// Norms before the branches. Branches that run beside each other are added while sums over ranks are still owed.
Decoder::Stream Decoder::block(Recorder& recorder, int64_t index, Stream stream, const DecoderInputs& inputs,
                               const Shared& shared) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const uint64_t of_attention = site_of(index, kAttentionOutput), of_mlp = site_of(index, kMlpOutput);
  const NormResult first = normalise(recorder, stream.x, stream.branch, layer.attention_norm);
  const Value attended = attend(recorder, index, first.y, inputs, shared);
  if (!config_.parallel_block()) {
    const Value branch = dropped(recorder, recorder.as_stream(attended), of_attention);
    const NormResult second = normalise(recorder, first.sum, branch, layer.mlp_norm);
    return {second.sum, dropped(recorder, recorder.as_stream(mlp(recorder, layer, second.y)), of_mlp)};
  }
  const Value normed = config_.has_mlp_norm() ? normalise(recorder, first.sum, {}, layer.mlp_norm).y : first.y;
  const Value passed = mlp(recorder, layer, normed);
  if (config_.dropout == 0.0 || !recorder.training())
    return {first.sum, recorder.as_stream(add(recorder, attended, passed))};
  return {first.sum, add(recorder, dropped(recorder, recorder.as_stream(attended), of_attention),
                         dropped(recorder, recorder.as_stream(passed), of_mlp))};
}

/// Norms of the sums.
Decoder::Stream Decoder::block_after(Recorder& recorder, int64_t index, Value x, const DecoderInputs& inputs,
                                     const Shared& shared) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const auto join = [&](Value branch, Site site, const NormParameters& parameters) {
    const Value kept = config_.alpha() == 1.0 ? x : scale(recorder, x, config_.alpha());
    x = normalise(recorder, kept, dropped(recorder, recorder.as_stream(branch), site_of(index, site)), parameters).y;
  };
  join(attend(recorder, index, x, inputs, shared), kAttentionOutput, layer.attention_norm);
  join(mlp(recorder, layer, x), kMlpOutput, layer.mlp_norm);
  return {x, {}};
}

Value Decoder::hidden(Recorder& recorder, const DecoderInputs& inputs) const {
  // A prefix ends in a dot; a scope does not.
  const std::string scope = prefix_.substr(0, prefix_.empty() ? 0 : prefix_.size() - 1);
  recorder.set_scope(scope);
  Stream stream{embed(recorder, inputs), {}};
  Shared shared{distance_bias(recorder)};
  for (int64_t i = 0; i < config_.layers; ++i) {
    const int region = static_cast<int>(i);
    if (recorder.begins_chunk(region) && stream.branch.present())
      stream = {add(recorder, stream.x, stream.branch), {}};  // one tensor crosses, not two
    recorder.set_region(region);
    if (recorder.begins_chunk(region) && shared.distance_bias.present()) {
      recorder.set_region(-1);  // handed on from chunk to chunk: two chunks of one stage have no path
      shared.distance_bias = scale(recorder, shared.distance_bias, 1.0);
      recorder.set_region(region);
    }
    recorder.set_scope(fmt::format("{}layers.{}", prefix_, i));
    if (is_query_layer(i) && config_.has_final_norm())
      stream = {normalise(recorder, stream.x, stream.branch, final_norm_).y, {}};
    stream = config_.norms_after() ? block_after(recorder, i, stream.x, inputs, shared)
                                   : block(recorder, i, stream, inputs, shared);
  }
  recorder.set_region(-1);
  recorder.set_scope(scope);
  if (config_.has_final_norm() && !config_.query_layer)
    return normalise(recorder, stream.x, stream.branch, final_norm_).y;
  return stream.branch.present() ? add(recorder, stream.x, stream.branch) : stream.x;
}

Value Decoder::logits(Recorder& recorder, Value hidden) const {
  if (config_.head_scale() != 1.0) hidden = scale(recorder, hidden, config_.head_scale());
  if (head_projection_.weight >= 0) hidden = apply(recorder, head_projection_, hidden);
  return linear(recorder, hidden, recorder.parameter(head_),
                head_bias_ >= 0 ? recorder.parameter(head_bias_) : Value{});
}

std::string Decoder::key_cache_name(int64_t layer) { return fmt::format("cache.{}.k", layer); }
std::string Decoder::value_cache_name(int64_t layer) { return fmt::format("cache.{}.v", layer); }

}  // namespace capstan
