#include "core/models/decoder.h"

#include <cmath>

#include "core/error.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"

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

/// Dropout sites of a layer; embeddings use site 0.
enum Site : uint64_t { kAttentionWeights = 1, kAttentionOutput = 2, kMlpOutput = 3 };
uint64_t site_of(int64_t layer, Site site) { return static_cast<uint64_t>(layer) * 4 + site; }

}  // namespace

Decoder::LinearParameters Decoder::declare_linear(ParameterSet& set, const std::string& name, Division division,
                                                  int64_t out, int64_t in, double deviation) {
  Parameter weight{prefix_ + name + ".weight", {out, in}, {Init::Kind::normal, deviation}};
  Parameter bias{prefix_ + name + ".bias", {out}, {Init::Kind::zeros}, false};
  if (division == Division::column) weight.placements = bias.placements = with({}, Axis::tp, Shard(0));
  if (division == Division::row) weight.placements = with({}, Axis::tp, Shard(1));
  weight.unit = bias.unit = unit_;
  LinearParameters parameters;
  parameters.weight = set.declare(weight);
  if (config_.bias) parameters.bias = set.declare(bias);
  return parameters;
}

Decoder::NormParameters Decoder::declare_norm(ParameterSet& set, const std::string& name) {
  Parameter weight{prefix_ + name + ".weight", {config_.width}, {Init::Kind::ones}, false};
  Parameter bias{prefix_ + name + ".bias", {config_.width}, {Init::Kind::zeros}, false};
  weight.unit = bias.unit = unit_;
  NormParameters parameters;
  parameters.weight = set.declare(weight);
  if (config_.norm == NormKind::layer && config_.bias) parameters.bias = set.declare(bias);
  return parameters;
}

void Decoder::declare_layer(ParameterSet& set, int64_t index) {
  const std::string base = fmt::format("layers.{}.", index);
  const int64_t width = config_.width, q = config_.heads * config_.head(), kv = config_.kv() * config_.head(),
                mlp = config_.mlp();
  const double deviation = config_.init_std;
  // Residual branches start smaller, so that the stream's variance does not grow with depth (Radford et al., 2019).
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(config_.layers));
  using enum Division;
  const Division heads = config_.kv() % tensor_ranks_ == 0 ? column : none;  // of keys and values
  unit_ = unit_of_layer(index);
  Layer layer;
  layer.attention_norm = declare_norm(set, base + "attention_norm");
  layer.q = declare_linear(set, base + "attention.q", column, q, width, deviation);
  layer.k = declare_linear(set, base + "attention.k", heads, kv, width, deviation);
  layer.v = declare_linear(set, base + "attention.v", heads, kv, width, deviation);
  layer.o = declare_linear(set, base + "attention.o", row, width, q, residual);
  layer.mlp_norm = declare_norm(set, base + "mlp_norm");
  if (config_.gated()) layer.gate = declare_linear(set, base + "mlp.gate", column, mlp, width, deviation);
  layer.up = declare_linear(set, base + "mlp.up", column, mlp, width, deviation);
  layer.down = declare_linear(set, base + "mlp.down", row, width, mlp, residual);
  layers_.push_back(layer);
}

Decoder::Decoder(const DecoderConfig& config, ParameterSet& set, const std::string& prefix, int tensor_ranks)
    : config_(config), prefix_(prefix), tensor_ranks_(tensor_ranks) {
  const int64_t rows = padded_vocabulary(config.vocabulary, tensor_ranks);
  const Init normal{Init::Kind::normal, config.init_std};
  const auto table = [&](const char* name) {
    return set.declare({prefix + name,
                        {rows, config.width},
                        normal,
                        true,
                        false,
                        config.vocabulary,
                        with({}, Axis::tp, Shard(0)),
                        unit_});
  };
  token_embedding_ = table("token_embedding.weight");
  if (config.positions == Positions::learned) {
    Parameter table_of_positions{prefix + "position_embedding.weight", {config.context, config.width}, normal};
    table_of_positions.unit = 1;
    position_embedding_ = set.declare(table_of_positions);
  }
  for (int64_t i = 0; i < config.layers; ++i) declare_layer(set, i);
  unit_ = unit_of_layer(config.layers);
  final_norm_ = declare_norm(set, "final_norm");
  head_ = config.tied ? token_embedding_ : table("head.weight");
}

std::vector<float> Decoder::alibi_slopes() const {
  // Press et al. (2022): a geometric sequence; head counts that are no power of two take the odd terms of the next one.
  const int64_t heads = config_.heads;
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i)
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(power))));
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2)
    slopes.push_back(static_cast<float>(std::exp2(-4.0 * static_cast<double>(i) / static_cast<double>(power))));
  return slopes;
}

void Decoder::declare_constants(PersistentSpace& persistent) const {
  if (config_.positions == Positions::alibi && persistent.find("alibi.slopes") < 0)
    persistent.add("alibi.slopes", {{config_.heads}, DType::f32}, Purpose::scalar);
}

Value Decoder::apply(Recorder& recorder, const LinearParameters& parameters, Value x) const {
  return linear(recorder, x, recorder.parameter(parameters.weight),
                parameters.bias >= 0 ? recorder.parameter(parameters.bias) : Value{});
}

Value Decoder::embed(Recorder& recorder, const DecoderInputs& inputs) const {
  Value x = recorder.as_stream(embedding(recorder, inputs.tokens, recorder.parameter(token_embedding_), {}));
  if (position_embedding_ >= 0) x = embedding(recorder, inputs.positions, recorder.parameter(position_embedding_), x);
  return dropout(recorder, x, {}, config_.dropout, 0);
}

Value Decoder::attend(Recorder& recorder, const Layer& layer, int64_t index, Value normed,
                      const DecoderInputs& inputs) const {
  normed = recorder.from_stream(normed);
  Value q = apply(recorder, layer.q, normed), k = apply(recorder, layer.k, normed),
        v = apply(recorder, layer.v, normed);
  if (config_.positions == Positions::rotary) {
    RotarySpec spec;
    spec.rotary_dims =
        static_cast<int64_t>(std::llround(config_.rotary_fraction * static_cast<double>(config_.head()))) / 2 * 2;
    spec.base = config_.rotary_base;
    spec.interleaved = config_.rotary_interleaved;
    spec.heads = config_.heads;
    q = rotary(recorder, q, inputs.positions, spec);
    spec.heads = config_.kv();
    k = rotary(recorder, k, inputs.positions, spec);
  }
  if (!inputs.key_caches.empty()) {
    k = append_to_cache(recorder, k, inputs.key_lengths, inputs.key_caches[static_cast<size_t>(index)]);
    v = append_to_cache(recorder, v, inputs.key_lengths, inputs.value_caches[static_cast<size_t>(index)]);
  }
  AttentionMaskSpec mask;
  mask.window = config_.window;
  mask.query_documents = mask.key_documents = inputs.document_ids;
  mask.key_lengths = inputs.key_lengths;
  if (config_.positions == Positions::alibi) mask.alibi_slopes = recorder.persistent("alibi.slopes");
  AttentionSpec spec{config_.heads, config_.kv(), 1.0 / std::sqrt(static_cast<double>(config_.head())), config_.dropout,
                     site_of(index, kAttentionWeights)};
  return recorder.as_stream(apply(recorder, layer.o, attention(recorder, q, k, v, spec, mask)));
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
  return recorder.as_stream(apply(recorder, layer.down, inner));
}

Value Decoder::hidden(Recorder& recorder, const DecoderInputs& inputs) const {
  const auto normalise = [&](Value x, Value branch, const NormParameters& parameters) {
    return norm(recorder, x, branch, recorder.parameter(parameters.weight),
                parameters.bias >= 0 ? recorder.parameter(parameters.bias) : Value{}, config_.norm == NormKind::rms,
                config_.norm_epsilon);
  };
  // A prefix ends in a dot; a scope does not.
  const std::string scope = prefix_.substr(0, prefix_.empty() ? 0 : prefix_.size() - 1);
  recorder.set_scope(scope);
  Value stream = embed(recorder, inputs);
  Value branch;  // what the previous sublayer adds to the stream; the next norm adds it on its way
  for (int64_t i = 0; i < config_.layers; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i)];
    if (recorder.begins_chunk(static_cast<int>(i)) && branch.present())
      stream = add(recorder, stream, branch), branch = {};  // one tensor crosses, not two
    recorder.set_region(static_cast<int>(i));
    recorder.set_scope(fmt::format("{}layers.{}", prefix_, i));
    const NormResult first = normalise(stream, branch, layer.attention_norm);
    branch = dropout(recorder, attend(recorder, layer, i, first.y, inputs), {}, config_.dropout,
                     site_of(i, kAttentionOutput));
    const NormResult second = normalise(first.sum, branch, layer.mlp_norm);
    branch = dropout(recorder, mlp(recorder, layer, second.y), {}, config_.dropout, site_of(i, kMlpOutput));
    stream = second.sum;
  }
  recorder.set_region(-1);
  recorder.set_scope(scope);
  return normalise(stream, branch, final_norm_).y;
}

Value Decoder::logits(Recorder& recorder, Value hidden) const {
  return linear(recorder, hidden, recorder.parameter(head_), {});
}

std::string Decoder::key_cache_name(int64_t layer) { return fmt::format("cache.{}.k", layer); }
std::string Decoder::value_cache_name(int64_t layer) { return fmt::format("cache.{}.v", layer); }

}  // namespace capstan
