#include "core/config/parameter_count.h"

namespace capstan {

int64_t parameter_count(const DecoderConfig& m) {
  const int64_t bias = m.bias ? 1 : 0;
  const int64_t query = m.heads * m.head(), key = m.kv() * m.head(), hidden = m.mlp();
  const auto linear = [bias](int64_t in, int64_t out) { return in * out + bias * out; };
  const int64_t norm = m.width * (m.norm == NormKind::layer ? 1 + bias : 1);
  const int64_t attention = linear(m.width, query) + 2 * linear(m.width, key) + linear(query, m.width);
  const int64_t mlp = (m.gated() ? 2 : 1) * linear(m.width, hidden) + linear(hidden, m.width);
  const int64_t embeddings = (m.tied ? 1 : 2) * m.vocabulary * m.width;
  const int64_t positions = m.positions == Positions::learned ? m.context * m.width : 0;
  return embeddings + positions + m.layers * (attention + mlp + 2 * norm) + norm;
}

}  // namespace capstan
