#pragma once
// Attention as kernel cases: one struct of switches gives fields, forward, backward and the naive formula with its
// whole T x T matrix. q, k and v may lie side by side in rows with gaps, as the plan lays them.

#include <memory>

#include "tests/kernels/kernel_case.h"

namespace capstan::kernels::testing {

struct AttentionSetting {
  std::string name;
  int64_t batch = 1, queries = 8, keys = 8, heads = 1, kv_heads = 1, head_size = 4;
  bool causal = true;
  int64_t window = 0;
  std::vector<double> query_documents = {}, key_documents = {};  ///< [batch, queries], [batch, keys]
  std::vector<double> key_lengths = {}, prefix_lengths = {};     ///< [batch]
  bool alibi = false;
  int64_t table = 0, relative = 0;  ///< distances of the table, and of the relative keys
  double dropout = 0.0;
  int64_t gap = 0;             ///< elements between the rows of tokens
  bool with_logsumexp = true;  ///< false: no backward follows

  int64_t q_stride() const { return heads * head_size + gap; }
  int64_t kv_stride() const { return kv_heads * head_size + gap; }
  int64_t key_length(int64_t b) const {
    return key_lengths.empty() ? keys : static_cast<int64_t>(key_lengths[static_cast<size_t>(b)]);
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_size)); }

  AttentionShape shape(DType dtype) const {
    return {.batch = batch,
            .queries = queries,
            .keys = keys,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_size = head_size,
            .q_stride = q_stride(),
            .kv_stride = kv_stride(),
            .o_stride = q_stride(),
            .scale = scale(),
            .causal = causal,
            .window = window,
            .dtype = dtype,
            .bias_distances = table,
            .relative_distances = relative};
  }
};

inline const uint64_t kAttentionKey = 0x9e3779b97f4a7c15ull, kAttentionSample = 5;

inline Dropout attention_dropout(const AttentionSetting& s) {
  if (s.dropout == 0.0) return {};
  return {.probability = s.dropout, .stream = 11, .key = &kAttentionKey, .first_sample = &kAttentionSample};
}

inline AttentionMask attention_mask(const Bindings& at) {
  return {.query_documents = at.get<const int32_t>("query_documents"),
          .key_documents = at.get<const int32_t>("key_documents"),
          .key_lengths = at.get<const int32_t>("key_lengths"),
          .prefix_lengths = at.get<const int32_t>("prefix_lengths"),
          .alibi_slopes = at.get<const float>("alibi_slopes"),
          .distance_bias = at.at("distance_bias"),
          .relative_q = at.at("relative_q"),
          .relative_k = at.at("relative_k")};
}

/// Random rows of `used` elements with NaN in the gap behind each.
inline std::vector<double> gapped(const std::string& name, int64_t rows, int64_t used, int64_t stride, double scale) {
  std::vector<double> values = random_values(name, rows * stride, scale);
  for (int64_t r = 0; r < rows; ++r) {
    std::fill(values.begin() + r * stride + used, values.begin() + (r + 1) * stride, std::nan(""));
  }
  return values;
}

/// Keys behind the key length were never written: NaN.
inline std::vector<double> key_values(const AttentionSetting& s, const std::string& name, double scale) {
  auto values = gapped(name, s.batch * s.keys, s.kv_heads * s.head_size, s.kv_stride(), scale);
  for (int64_t b = 0; b < s.batch; ++b) {
    std::fill(values.begin() + (b * s.keys + s.key_length(b)) * s.kv_stride(),
              values.begin() + (b + 1) * s.keys * s.kv_stride(), std::nan(""));
  }
  return values;
}

inline std::vector<Field> mask_fields(const AttentionSetting& s) {
  std::vector<Field> fields;
  const auto ids = [&](const char* name, const std::vector<double>& values) {
    if (!values.empty()) fields.push_back({name, Kind::i32, values});
  };
  ids("query_documents", s.query_documents);
  ids("key_documents", s.key_documents);
  ids("key_lengths", s.key_lengths);
  ids("prefix_lengths", s.prefix_lengths);
  if (s.alibi) {
    std::vector<double> slopes;
    for (int64_t h = 0; h < s.heads; ++h) slopes.push_back(std::ldexp(0.75, static_cast<int>(-h)));
    fields.push_back({"alibi_slopes", Kind::f32, slopes});
  }
  return fields;
}

/// Operands of biases by distance, which have gradients.
inline std::vector<Field> learned_fields(const AttentionSetting& s) {
  std::vector<Field> fields;
  if (s.table > 0)
    fields.push_back({"distance_bias", Kind::element, random_values("distance_bias", s.table * s.heads, 2.0)});
  if (s.relative == 0) return fields;
  const int64_t width = s.heads * s.head_size;
  fields.push_back({"relative_q", Kind::element, gapped("relative_q", s.batch * s.queries, width, s.q_stride(), 2.0)});
  fields.push_back({"relative_k", Kind::element, random_values("relative_k", s.relative * width, 2.0)});
  return fields;
}

/// The part of score (i, j) that goes by distance.
inline double by_distance(const AttentionSetting& s, const Values& in, int64_t b, int64_t h, int64_t i, int64_t j) {
  const int64_t distance = i + s.key_length(b) - s.queries - j;
  const auto row = [&](int64_t rows) { return std::min(std::max<int64_t>(distance, 0), rows - 1); };
  double sum = 0;
  if (s.alibi)
    sum -=
        in.at("alibi_slopes")[static_cast<size_t>(h)] * static_cast<double>(s.causal ? distance : std::abs(distance));
  if (s.table > 0) sum += in.at("distance_bias")[static_cast<size_t>(row(s.table) * s.heads + h)];
  for (int64_t d = 0; s.relative > 0 && d < s.head_size; ++d)
    sum += s.scale() *
           in.at("relative_q")[static_cast<size_t>((b * s.queries + i) * s.q_stride() + h * s.head_size + d)] *
           in.at("relative_k")[static_cast<size_t>((row(s.relative) * s.heads + h) * s.head_size + d)];
  return sum;
}

/// What the naive formula asks about query i and key j of sample b.
inline bool sees(const AttentionSetting& s, int64_t b, int64_t i, int64_t j) {
  const int64_t p = i + s.key_length(b) - s.queries;
  const bool in_prefix =
      !s.prefix_lengths.empty() && j < static_cast<int64_t>(s.prefix_lengths[static_cast<size_t>(b)]);
  const bool in_past = j <= p || in_prefix || !s.causal;
  const bool near = s.window == 0 || (p - j < s.window && (s.causal || j - p < s.window));
  const bool same = s.query_documents.empty() || s.query_documents[static_cast<size_t>(b * s.queries + i)] ==
                                                     s.key_documents[static_cast<size_t>(b * s.keys + j)];
  return in_past && near && same && j < s.key_length(b);
}

/// The row w(i, .) of attention weights before dropout, and its logsumexp.
inline std::vector<double> weights_row(const AttentionSetting& s, const Values& in, int64_t b, int64_t h, int64_t i,
                                       double& logsumexp) {
  std::vector<double> row(static_cast<size_t>(s.keys), -INFINITY);
  const int64_t group = s.heads / s.kv_heads;
  double total = 0;
  for (int64_t j = 0; j < s.keys; ++j) {
    if (!sees(s, b, i, j)) continue;
    double score = 0;
    for (int64_t d = 0; d < s.head_size; ++d) {
      score += in.at("q")[static_cast<size_t>((b * s.queries + i) * s.q_stride() + h * s.head_size + d)] *
               in.at("k")[static_cast<size_t>((b * s.keys + j) * s.kv_stride() + h / group * s.head_size + d)];
    }
    row[static_cast<size_t>(j)] = score * s.scale() + by_distance(s, in, b, h, i, j);
    total += std::exp(row[static_cast<size_t>(j)]);
  }
  for (double& w : row) w = total == 0 ? 0 : std::exp(w) / total;
  logsumexp = std::log(total);
  return row;
}

inline Values attention_formula(const AttentionSetting& s, const Values& in) {
  Values out;
  const int64_t group = s.heads / s.kv_heads;
  out["o"].assign(static_cast<size_t>(s.batch * s.queries * s.q_stride()), std::nan(""));
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < s.queries; ++i) {
        double logsumexp = 0;
        const std::vector<double> w = weights_row(s, in, b, h, i, logsumexp);
        if (s.with_logsumexp) out["logsumexp"].push_back(logsumexp);
        for (int64_t d = 0; d < s.head_size; ++d) {
          double sum = 0;
          for (int64_t j = 0; j < s.keys; ++j) {
            if (!sees(s, b, i, j)) continue;
            const auto sample = static_cast<int64_t>(kAttentionSample) + b;
            const auto index = static_cast<uint64_t>(((sample * s.heads + h) * s.queries + i) * s.keys + j);
            const bool kept = philox_word(kAttentionKey, 11, index) >= s.dropout * 4294967296.0;
            const auto at = static_cast<size_t>((b * s.keys + j) * s.kv_stride() + h / group * s.head_size + d);
            if (kept || s.dropout == 0) sum += w[static_cast<size_t>(j)] / (1 - s.dropout) * in.at("v")[at];
          }
          out["o"][static_cast<size_t>((b * s.queries + i) * s.q_stride() + h * s.head_size + d)] = sum;
        }
      }
    }
  }
  return out;
}

inline Stage attention_forward(const AttentionSetting& s) {
  Stage stage;
  const int64_t rows = s.batch * s.queries;
  stage.inputs = mask_fields(s);
  stage.inputs.push_back({"q", Kind::element, gapped("q", rows, s.heads * s.head_size, s.q_stride(), 2.5)});
  stage.inputs.push_back({"k", Kind::element, key_values(s, "k", 2.5)});
  stage.inputs.push_back({"v", Kind::element, key_values(s, "v", 1.0)});
  for (Field& field : learned_fields(s)) stage.inputs.push_back(std::move(field));
  stage.outputs = {{.name = "o", .values = sized(rows * s.q_stride()), .floor = 0.1}};
  if (s.with_logsumexp) {
    stage.outputs.push_back(
        {.name = "logsumexp", .kind = Kind::accumulation, .values = sized(rows * s.heads), .floor = 1.0});
  }
  stage.scratch = [s](const Backend& b, DType t) { return b.attention_scratch(s.shape(t)); };
  stage.run = [s](const Call& c) {
    c.backend.attention({.shape = s.shape(c.dtype),
                         .mask = attention_mask(c.at),
                         .dropout = attention_dropout(s),
                         .q = c.at.at("q"),
                         .k = c.at.at("k"),
                         .v = c.at.at("v"),
                         .o = c.at.at("o"),
                         .logsumexp = c.at.at("logsumexp"),
                         .scratch = c.scratch});
  };
  return stage;
}

inline Stage attention_backward(const AttentionSetting& s) {
  Stage stage;
  const int64_t rows = s.batch * s.queries, key_count = s.batch * s.keys * s.kv_stride();
  stage.inputs = mask_fields(s);
  for (const char* name : {"q", "k", "v", "o"}) stage.inputs.push_back(saved(name));
  for (const Field& field : learned_fields(s)) stage.inputs.push_back(saved(field.name));
  stage.inputs.push_back(saved("logsumexp", Kind::accumulation));
  stage.inputs.push_back({"d_o", Kind::element, gapped("d_o", rows, s.heads * s.head_size, s.q_stride(), 1.0)});
  stage.outputs = {
      {.name = "d_q", .values = sized(rows * s.q_stride()), .gradient_of = {"q"}, .floor = 0.1},
      {.name = "d_k", .values = sized(key_count), .gradient_of = {"k"}, .floor = 0.1},
      {.name = "d_v", .values = sized(key_count), .gradient_of = {"v"}, .floor = 0.1},
  };
  for (const Field& field : learned_fields(s))
    stage.outputs.push_back({.name = "d_" + field.name,
                             .values = sized(static_cast<int64_t>(field.values.size())),
                             .gradient_of = {field.name},
                             .floor = 0.1});
  stage.scratch = [s](const Backend& b, DType t) { return b.attention_backward_scratch(s.shape(t)); };
  stage.run = [s](const Call& c) {
    c.backend.attention_backward({.shape = s.shape(c.dtype),
                                  .mask = attention_mask(c.at),
                                  .dropout = attention_dropout(s),
                                  .q = c.at.at("q"),
                                  .k = c.at.at("k"),
                                  .v = c.at.at("v"),
                                  .o = c.at.at("o"),
                                  .logsumexp = c.at.at("logsumexp"),
                                  .d_o = c.at.at("d_o"),
                                  .dq = c.at.at("d_q"),
                                  .dk = c.at.at("d_k"),
                                  .dv = c.at.at("d_v"),
                                  .scratch = c.scratch,
                                  .d_distance_bias = c.at.at("d_distance_bias"),
                                  .d_relative_q = c.at.at("d_relative_q"),
                                  .d_relative_k = c.at.at("d_relative_k")});
  };
  return stage;
}

inline KernelCase attention_case(const AttentionSetting& s) {
  KernelCase c;
  c.name = s.name;
  c.forward = attention_forward(s);
  if (s.with_logsumexp) c.backward = attention_backward(s);
  c.formula = [s](const Values& in) { return attention_formula(s, in); };
  c.loosen = 2.5;
  return c;
}

}  // namespace capstan::kernels::testing
