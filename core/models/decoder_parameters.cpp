// What a decoder owns: its parameters, by config and placed on tp, and the constants it reads.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/models/decoder.h"

namespace capstan {
namespace {

/// T5's bucket of a distance back in time: the first half of them one distance each, then ever longer ranges up to
/// `farthest` (Raffel et al., 2020).
int64_t bucket_of(int64_t distance, int64_t buckets, int64_t farthest) {
  const int64_t exact = buckets / 2;
  if (distance < exact) return distance;
  const double share = std::log(static_cast<double>(distance) / static_cast<double>(exact)) /
                       std::log(static_cast<double>(farthest) / static_cast<double>(exact));
  return std::min(buckets - 1, exact + static_cast<int64_t>(share * static_cast<double>(buckets - exact)));
}

/// Entry i of the row for `place`: sines in the first half, cosines in the second; of frequencies, each
/// 10000^(-1 / last) of the one before.
double wave(int64_t place, int64_t i, int64_t half, double last) {
  const double frequency = std::exp(-static_cast<double>(i % half) * std::log(10000.0) / last);
  const double angle = static_cast<double>(place) * frequency;
  return i < half ? std::sin(angle) : std::cos(angle);
}

/// rows x width waves; row r stands for place r + offset.
Constant waves(const std::string& name, int64_t rows, int64_t width, int64_t offset, double last) {
  const int64_t half = width / 2;
  return {name, {{rows, width}, DType::f32}, [=](void* to) {
            for (int64_t e = 0; e < rows * width; ++e)
              static_cast<float*>(to)[e] = static_cast<float>(wave(e / width + offset, e % width, half, last));
          }};
}

}  // namespace

int Decoder::declare_vector(ParameterSet& set, const std::string& name, int64_t size, Init::Kind init, bool divided) {
  Parameter vector{prefix_ + name, {size}, {init}, false};
  if (divided) vector.placements = with({}, Axis::tp, Shard(0));
  vector.unit = unit_;
  return set.declare(vector);
}

Decoder::LinearParameters Decoder::declare_linear(ParameterSet& set, const std::string& name,
                                                  const LinearShape& shape) {
  Parameter weight{prefix_ + name + ".weight", {shape.out, shape.in}, {Init::Kind::normal, shape.deviation}};
  if (shape.division == Division::column) weight.placements = with({}, Axis::tp, Shard(0));
  if (shape.division == Division::row) weight.placements = with({}, Axis::tp, Shard(1));
  weight.unit = unit_;
  LinearParameters parameters;
  parameters.weight = set.declare(weight);
  if (shape.bias)
    parameters.bias =
        declare_vector(set, name + ".bias", shape.out, Init::Kind::zeros, shape.division == Division::column);
  return parameters;
}

Decoder::NormParameters Decoder::declare_norm(ParameterSet& set, const std::string& name) {
  NormParameters parameters;
  parameters.weight = declare_vector(set, name + ".weight", config_.width, Init::Kind::ones, false);
  if (config_.has_norm_bias())
    parameters.bias = declare_vector(set, name + ".bias", config_.width, Init::Kind::zeros, false);
  return parameters;
}

/// A table that every rank reads whole.
int Decoder::declare_table(ParameterSet& set, const std::string& name, int64_t rows, int64_t width) {
  Parameter table{prefix_ + name + ".weight", {rows, width}, {Init::Kind::normal, config_.init_std}};
  table.unit = unit_;
  return set.declare(table);
}

void Decoder::declare_attention(ParameterSet& set, const std::string& base, Layer& layer) {
  const int64_t width = config_.width, q = config_.heads * config_.head(), kv = config_.kv() * config_.head();
  const double deviation = config_.init_std;
  using enum Division;
  const Division heads = config_.kv() % tensor_ranks_ == 0 ? column : none;  // of keys and values
  const bool bias = config_.has_qkv_bias();
  layer.q = declare_linear(set, base + "q", {column, q, width, deviation, bias});
  layer.k = declare_linear(set, base + "k", {heads, kv, width, deviation, bias});
  layer.v = declare_linear(set, base + "v", {heads, kv, width, deviation * config_.beta(), bias});
  if (config_.qk_norm) {
    layer.q_norm = declare_vector(set, base + "q_norm.weight", config_.head(), Init::Kind::ones, false);
    layer.k_norm = declare_vector(set, base + "k_norm.weight", config_.head(), Init::Kind::ones, false);
  }
  if (config_.positions == Positions::xl) {
    layer.relative = declare_linear(set, base + "relative", {column, q, width, deviation, false});
    layer.u = declare_vector(set, base + "u.bias", q, Init::Kind::zeros, true);
    layer.v_relative = declare_vector(set, base + "v_relative.bias", q, Init::Kind::zeros, true);
  }
}

void Decoder::declare_layer(ParameterSet& set, int64_t index) {
  const std::string base = fmt::format("layers.{}.", index);
  const int64_t width = config_.width, q = config_.heads * config_.head(), mlp = config_.mlp();
  const double deviation = config_.init_std * config_.beta();
  // Residual branches start smaller, so that the stream's variance does not grow with depth (Radford et al., 2019);
  // where the sums are normalised it does not.
  const double residual =
      config_.norms_after() ? deviation : deviation / std::sqrt(2.0 * static_cast<double>(config_.layers));
  const bool bias = config_.has_mlp_bias();
  using enum Division;
  unit_ = unit_of_layer(index);
  Layer layer;
  if (is_query_layer(index)) {
    if (config_.has_final_norm()) final_norm_ = declare_norm(set, "final_norm");
    query_embedding_ = declare_table(set, "query_embedding", config_.context, width);
  }
  layer.attention_norm = declare_norm(set, base + "attention_norm");
  declare_attention(set, base + "attention.", layer);
  layer.o = declare_linear(set, base + "attention.o", {row, width, q, residual, config_.has_attention_output_bias()});
  if (config_.has_mlp_norm()) layer.mlp_norm = declare_norm(set, base + "mlp_norm");
  if (config_.gated()) layer.gate = declare_linear(set, base + "mlp.gate", {column, mlp, width, deviation, bias});
  layer.up = declare_linear(set, base + "mlp.up", {column, mlp, width, deviation, bias});
  layer.down = declare_linear(set, base + "mlp.down", {row, width, mlp, residual, bias});
  layers_.push_back(layer);
}

/// What stands beside the token embedding before the layers, and beside the head after them.
void Decoder::declare_ends(ParameterSet& set, bool before) {
  const int64_t width = config_.width, embedded = config_.embedded();
  const bool projected = config_.embedding_width > 0;
  using enum Division;
  if (!before) {
    if (config_.has_final_norm() && !config_.query_layer) final_norm_ = declare_norm(set, "final_norm");
    if (projected)
      head_projection_ = declare_linear(set, "head_projection", {none, embedded, width, config_.init_std, false});
    return;
  }
  unit_ = 1;
  if (config_.positions == Positions::learned)
    position_embedding_ = declare_table(set, "position_embedding", config_.context + config_.position_offset, width);
  if (projected)
    embedding_projection_ =
        declare_linear(set, "embedding_projection", {none, width, embedded, config_.init_std, false});
  if (config_.embedding_norm) embedding_norm_ = declare_norm(set, "embedding_norm");
  if (config_.positions == Positions::t5)
    relative_bias_ = declare_table(set, "relative_bias", config_.relative_buckets, config_.heads);
}

Decoder::Decoder(const DecoderConfig& config, ParameterSet& set, const std::string& prefix, int tensor_ranks)
    : config_(config), prefix_(prefix), tensor_ranks_(tensor_ranks) {
  const int64_t rows = padded_vocabulary(config.vocabulary, tensor_ranks);
  const auto by_vocabulary = [&](const char* name, Shape shape, Init init, bool decay) {
    return set.declare(
        {prefix + name, std::move(shape), init, decay, false, config.vocabulary, with({}, Axis::tp, Shard(0)), unit_});
  };
  const Init normal{Init::Kind::normal, config.init_std};
  token_embedding_ = by_vocabulary("token_embedding.weight", {rows, config.embedded()}, normal, true);
  declare_ends(set, true);
  for (int64_t i = 0; i < config.layers; ++i) declare_layer(set, i);
  unit_ = unit_of_layer(config.layers);
  declare_ends(set, false);
  head_ = config.tied ? token_embedding_ : by_vocabulary("head.weight", {rows, config.embedded()}, normal, true);
  if (config.head_bias) head_bias_ = by_vocabulary("head.bias", {rows}, {Init::Kind::zeros}, false);
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

std::vector<Constant> Decoder::constants() const {
  const int64_t context = config_.context, width = config_.width;
  switch (config_.positions) {
    case Positions::alibi:
      return {{"alibi.slopes", {{config_.heads}, DType::f32}, [slopes = alibi_slopes()](void* to) {
                 std::memcpy(to, slopes.data(), slopes.size() * sizeof(float));
               }}};
    case Positions::sinusoidal:
      return {waves("positions.waves", context, width, config_.position_offset, static_cast<double>(width / 2 - 1))};
    case Positions::xl:
      return {waves("distances.waves", context, width, 0, static_cast<double>(width / 2))};
    case Positions::t5:
      return {{"positions.buckets", {{context}, DType::i32}, [config = config_](void* to) {
                 for (int64_t d = 0; d < config.context; ++d)
                   static_cast<int32_t*>(to)[d] =
                       static_cast<int32_t>(bucket_of(d, config.relative_buckets, config.relative_distance));
               }}};
    default:
      return {};
  }
}

void Decoder::declare_constants(PersistentSpace& persistent) const {
  for (const Constant& constant : constants())
    if (persistent.find(constant.name) < 0) persistent.add(constant.name, constant.spec, Purpose::scalar);
}

}  // namespace capstan
