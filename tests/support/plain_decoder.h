#pragma once
// A decoder a second time, in plain loops over doubles: one sequence, whole matrices of scores, every switch read from
// the config where the formula needs it. What the recorded model is compared with.

#include <complex>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/models/decoder_config.h"
#include "tests/support/plain_rotary.h"

namespace capstan::testing {

using PlainRows = std::vector<std::vector<double>>;
/// Values of parameters by name, without those that the model does not have.
using PlainWeights = std::map<std::string, std::vector<double>>;

class PlainDecoder {
 public:
  PlainDecoder(const DecoderConfig& config, const PlainWeights& weights) : c_(config), w_(weights) {}

  /// Logits (tokens, vocabulary). Tokens below `prefix` see each other.
  PlainRows logits(const std::vector<int>& tokens, int64_t prefix = 0) const {
    PlainRows x = embed(tokens);
    for (int64_t i = 0; i < c_.layers; ++i) {
      const bool asks_by_place = c_.query_layer && i == c_.layers - 1;
      if (asks_by_place && c_.has_final_norm()) x = norm(x, "final_norm");
      x = layer(x, "layers." + std::to_string(i) + ".", i, asks_by_place, prefix);
    }
    if (c_.has_final_norm() && !c_.query_layer) x = norm(x, "final_norm");
    for (auto& row : x)
      for (double& v : row)
        v *= c_.logit_scale == 0.0 ? 1.0 / std::sqrt(static_cast<double>(c_.width)) : c_.logit_scale;
    if (c_.embedding_width > 0) x = linear(x, "head_projection", c_.embedding_width);
    PlainRows out(x.size(), std::vector<double>(static_cast<size_t>(c_.vocabulary)));
    const std::vector<double>& head = w_.at(c_.tied ? "token_embedding.weight" : "head.weight");
    const auto bias = w_.find("head.bias");
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t v = 0; v < out[t].size(); ++v) {
        if (bias != w_.end()) out[t][v] = bias->second[v];
        for (size_t d = 0; d < x[t].size(); ++d) out[t][v] += head[v * x[t].size() + d] * x[t][d];
      }
    return out;
  }

 private:
  static double act(Activation kind, double x) {
    const double pi = std::acos(-1.0);
    switch (kind) {
      case Activation::gelu:
      case Activation::geglu:
        return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
      case Activation::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
      case Activation::relu:
        return std::max(x, 0.0);
      case Activation::squared_relu:
        return x > 0 ? x * x : 0.0;
      case Activation::swiglu:
        return x / (1 + std::exp(-x));
    }
    return x;
  }

  PlainRows linear(const PlainRows& x, const std::string& name, int64_t out) const {
    const std::vector<double>& weight = w_.at(name + ".weight");
    const auto bias = w_.find(name + ".bias");
    PlainRows y(x.size(), std::vector<double>(static_cast<size_t>(out)));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t o = 0; o < y[t].size(); ++o) {
        if (bias != w_.end()) y[t][o] = bias->second[o];
        for (size_t d = 0; d < x[t].size(); ++d) y[t][o] += weight[o * x[t].size() + d] * x[t][d];
      }
    return y;
  }

  /// Of `size` dims at a time: of whole rows, or of each head.
  PlainRows normalised(PlainRows x, size_t size, bool rms, const std::string& name) const {
    const std::vector<double>& weight = w_.at(name + ".weight");
    const auto bias = w_.find(name + ".bias");
    for (auto& row : x)
      for (size_t from = 0; from < row.size(); from += size) {
        double mean = 0, square = 0;
        for (size_t d = 0; d < size && !rms; ++d) mean += row[from + d] / static_cast<double>(size);
        for (size_t d = 0; d < size; ++d) square += std::pow(row[from + d] - mean, 2) / static_cast<double>(size);
        for (size_t d = 0; d < size; ++d) {
          row[from + d] = (row[from + d] - mean) / std::sqrt(square + c_.norm_epsilon) * weight[d];
          if (bias != w_.end()) row[from + d] += bias->second[d];
        }
      }
    return x;
  }
  PlainRows norm(const PlainRows& x, const std::string& name) const {
    return normalised(x, static_cast<size_t>(c_.width), c_.norm == NormKind::rms, name);
  }

  PlainRows embed(const std::vector<int>& tokens) const {
    const size_t embedded = static_cast<size_t>(c_.embedding_width ? c_.embedding_width : c_.width);
    const size_t width = static_cast<size_t>(c_.width);
    PlainRows x;
    for (const int token : tokens) {
      const double* row = w_.at("token_embedding.weight").data() + static_cast<size_t>(token) * embedded;
      x.emplace_back(row, row + embedded);
      for (double& v : x.back())
        v *= c_.embedding_scale == 0.0 ? std::sqrt(static_cast<double>(c_.width)) : c_.embedding_scale;
    }
    if (c_.embedding_width > 0) x = linear(x, "embedding_projection", c_.width);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t d = 0; d < width; ++d) {
        const size_t place = t + static_cast<size_t>(c_.position_offset);
        if (c_.positions == Positions::learned) x[t][d] += w_.at("position_embedding.weight")[place * width + d];
        if (c_.positions != Positions::sinusoidal) continue;
        const size_t half = width / 2, k = d % half;
        const double angle = static_cast<double>(place) *
                             std::exp(-static_cast<double>(k) * std::log(10000.0) / static_cast<double>(half - 1));
        x[t][d] += static_cast<double>(static_cast<float>(d < half ? std::sin(angle) : std::cos(angle)));
      }
    return c_.embedding_norm ? norm(x, "embedding_norm") : x;
  }

  PlainRows mlp(const PlainRows& x, const std::string& base) const {
    PlainRows up = linear(x, base + "mlp.up", c_.mlp());
    const PlainRows gate = c_.gated() ? linear(x, base + "mlp.gate", c_.mlp()) : up;
    for (size_t t = 0; t < up.size(); ++t)
      for (size_t d = 0; d < up[t].size(); ++d)
        up[t][d] = act(c_.activation, gate[t][d]) * (c_.gated() ? up[t][d] : 1.0);
    return linear(up, base + "mlp.down", c_.width);
  }

  PlainRows rotated(PlainRows x) const {
    const char* kinds[] = {"none", "linear", "llama3", "yarn"};
    const bool yarn = c_.rotary_scaling == RotaryScaling::yarn;
    const double high = c_.rotary_high != 0.0 ? c_.rotary_high : yarn ? 32 : 4;
    const double before = c_.rotary_original_context ? static_cast<double>(c_.rotary_original_context)
                                                     : static_cast<double>(c_.context) / c_.rotary_factor;
    const double amplitude = !yarn                        ? 1
                             : c_.rotary_attention != 0.0 ? c_.rotary_attention
                                                          : 0.1 * std::log(c_.rotary_factor) + 1;
    const PlainRotaryScale scale{
        kinds[static_cast<int>(c_.rotary_scaling)], c_.rotary_factor, c_.rotary_low, high, before, amplitude};
    const size_t size = static_cast<size_t>(c_.head());
    const size_t dims = static_cast<size_t>(std::lround(c_.rotary_fraction * static_cast<double>(size)));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t from = 0; from < x[t].size(); from += size)
        for (size_t i = 0; i < dims / 2; ++i) {
          const size_t a = from + (c_.rotary_interleaved ? 2 * i : i), b = c_.rotary_interleaved ? a + 1 : a + dims / 2;
          const double angle =
              static_cast<double>(t) *
              plain_frequency(static_cast<int64_t>(i), static_cast<int64_t>(dims), c_.rotary_base, scale);
          const auto z = std::complex<double>(x[t][a], x[t][b]) * std::polar(scale.amplitude, angle);
          x[t][a] = z.real(), x[t][b] = z.imag();
        }
    return x;
  }

  double alibi_slope(int64_t head) const {
    int64_t power = 1;
    while (2 * power <= c_.heads) power *= 2;
    const double n = static_cast<double>(power), h = static_cast<double>(head);
    return static_cast<float>(head < power ? std::pow(2.0, -8 * (h + 1) / n)
                                           : std::pow(2.0, -4 * (2 * (h - n) + 1) / n));
  }
  int64_t bucket(int64_t distance) const {
    const int64_t exact = c_.relative_buckets / 2;
    const double n = static_cast<double>(std::max<int64_t>(distance, 0)), e = static_cast<double>(exact);
    if (n < e) return static_cast<int64_t>(n);
    const double far = e + std::log(n / e) / std::log(static_cast<double>(c_.relative_distance) / e) *
                               static_cast<double>(c_.relative_buckets - exact);
    return std::min(c_.relative_buckets - 1, static_cast<int64_t>(far));
  }

  /// What is added to a score by distance; `q` is the head's query without biases.
  double bias(const std::string& base, int64_t head, int64_t distance, const double* q) const {
    const size_t size = static_cast<size_t>(c_.head()), h = static_cast<size_t>(head),
                 width = static_cast<size_t>(c_.width);
    if (c_.positions == Positions::alibi) return -alibi_slope(head) * static_cast<double>(distance);
    if (c_.positions == Positions::t5)
      return w_.at("relative_bias.weight")[static_cast<size_t>(bucket(distance) * c_.heads + head)];
    if (c_.positions != Positions::xl) return 0.0;
    double sum = 0;
    for (size_t d = 0; d < size; ++d) {
      double key = 0;
      for (size_t i = 0; i < width; ++i) {
        const double angle =
            static_cast<double>(std::max<int64_t>(distance, 0)) *
            std::pow(10000.0, -2.0 * static_cast<double>(i % (width / 2)) / static_cast<double>(width));
        const double wave = static_cast<double>(static_cast<float>(i < width / 2 ? std::sin(angle) : std::cos(angle)));
        key += w_.at(base + "attention.relative.weight")[(h * size + d) * width + i] * wave;
      }
      sum += (q[d] + w_.at(base + "attention.v_relative.bias")[h * size + d]) * key;
    }
    return sum * scale();
  }
  double scale() const {
    return c_.attention_scale != 0.0 ? c_.attention_scale : 1 / std::sqrt(static_cast<double>(c_.head()));
  }

  PlainRows attention(const PlainRows& x, const std::string& base, int64_t index, bool asks_by_place,
                      int64_t prefix) const {
    const size_t size = static_cast<size_t>(c_.head()), width = static_cast<size_t>(c_.width);
    PlainRows asks = x;
    for (size_t t = 0; asks_by_place && t < x.size(); ++t)
      for (size_t d = 0; d < width; ++d) asks[t][d] = w_.at("query_embedding.weight")[t * width + d];
    PlainRows q = linear(asks, base + "attention.q", c_.heads * c_.head());
    PlainRows k = linear(x, base + "attention.k", c_.kv() * c_.head()),
              v = linear(x, base + "attention.v", c_.kv() * c_.head());
    if (c_.qk_norm) {
      q = normalised(q, size, true, base + "attention.q_norm");
      k = normalised(k, size, true, base + "attention.k_norm");
    }
    if (c_.positions == Positions::rotary) q = rotated(q), k = rotated(k);
    const bool local = c_.window > 0 && index >= c_.window_from &&
                       !(c_.global_every > 0 && index % c_.global_every == c_.global_first);
    PlainRows out(x.size(), std::vector<double>(static_cast<size_t>(c_.heads) * size));
    for (int64_t h = 0; h < c_.heads; ++h)
      for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i) {
        const size_t at = static_cast<size_t>(h) * size, kv = static_cast<size_t>(h / (c_.heads / c_.kv())) * size;
        std::vector<double> weights(x.size());
        double total = 0;
        for (int64_t j = 0; j < static_cast<int64_t>(x.size()); ++j) {
          if ((j > i && j >= prefix) || (local && i - j >= c_.window)) continue;
          const size_t key = static_cast<size_t>(j), query = static_cast<size_t>(i);
          double score = 0;
          for (size_t d = 0; d < size; ++d) {
            const double u = c_.positions == Positions::xl ? w_.at(base + "attention.u.bias")[at + d] : 0.0;
            score += (q[query][at + d] + u) * k[key][kv + d];
          }
          weights[key] = std::exp(score * scale() + bias(base, h, i - j, q[query].data() + at));
          total += weights[key];
        }
        for (size_t j = 0; j < x.size(); ++j)
          for (size_t d = 0; d < size; ++d) out[static_cast<size_t>(i)][at + d] += weights[j] / total * v[j][kv + d];
      }
    return linear(out, base + "attention.o", c_.width);
  }

  static PlainRows sum(PlainRows a, const PlainRows& b, double factor = 1.0) {
    for (size_t t = 0; t < a.size(); ++t)
      for (size_t d = 0; d < a[t].size(); ++d) a[t][d] = factor * a[t][d] + b[t][d];
    return a;
  }

  PlainRows layer(const PlainRows& x, const std::string& base, int64_t index, bool asks_by_place,
                  int64_t prefix) const {
    const auto attend = [&](const PlainRows& n) { return attention(n, base, index, asks_by_place, prefix); };
    const std::string first = base + "attention_norm", second = base + "mlp_norm";
    switch (c_.norm_placement) {
      case NormPlacement::pre: {
        const PlainRows h = sum(x, attend(norm(x, first)));
        return sum(h, mlp(norm(h, second), base));
      }
      case NormPlacement::parallel:
        return sum(sum(x, attend(norm(x, first))), mlp(norm(x, first), base));
      case NormPlacement::parallel_two:
        return sum(sum(x, attend(norm(x, first))), mlp(norm(x, second), base));
      case NormPlacement::post:
      case NormPlacement::deep:
        break;
    }
    double alpha = 1;
    if (c_.norm_placement == NormPlacement::deep)
      alpha = c_.deep_alpha != 0.0 ? c_.deep_alpha : std::pow(2.0 * static_cast<double>(c_.layers), 0.25);
    const PlainRows h = norm(sum(x, attend(x), alpha), first);
    return norm(sum(h, mlp(h, base), alpha), second);
  }

  const DecoderConfig& c_;
  const PlainWeights& w_;
};

}  // namespace capstan::testing
