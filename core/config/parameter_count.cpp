#include "core/config/parameter_count.h"

namespace capstan {
namespace {

int64_t attention_count(const DecoderConfig& m) {
  const int64_t query = m.heads * m.head(), key = m.kv() * m.head();
  const int64_t products = 2 * m.width * (query + key);
  const int64_t biases = (m.has_qkv_bias() ? query + 2 * key : 0) + (m.has_attention_output_bias() ? m.width : 0);
  const int64_t norms = m.qk_norm ? 2 * m.head() : 0;
  const int64_t relative = m.positions == Positions::xl ? m.width * query + 2 * query : 0;
  return products + biases + norms + relative;
}

int64_t mlp_count(const DecoderConfig& m) {
  const int64_t into = m.gated() ? 2 : 1, hidden = m.mlp();
  return (into + 1) * m.width * hidden + (m.has_mlp_bias() ? into * hidden + m.width : 0);
}

/// Embeddings, their norm and projections, and the head.
int64_t ends_count(const DecoderConfig& m) {
  int64_t count = (m.tied ? 1 : 2) * m.vocabulary * m.embedded() + (m.head_bias ? m.vocabulary : 0);
  if (m.embedding_width > 0) count += 2 * m.width * m.embedded();
  if (m.positions == Positions::learned) count += (m.context + m.position_offset) * m.width;
  if (m.positions == Positions::t5) count += m.relative_buckets * m.heads;
  if (m.query_layer) count += m.context * m.width;
  return count;
}

}  // namespace

int64_t parameter_count(const DecoderConfig& m) {
  const int64_t norm = m.width * (m.has_norm_bias() ? 2 : 1);
  const int64_t norms =
      m.layers * (m.has_mlp_norm() ? 2 : 1) + (m.has_final_norm() ? 1 : 0) + (m.embedding_norm ? 1 : 0);
  return ends_count(m) + m.layers * (attention_count(m) + mlp_count(m)) + norms * norm;
}

}  // namespace capstan
