#pragma once
// Attention over whole sequences or over a key/value cache, rotary embedding, and the cache itself. The mask and the
// position bias are values: which rules hold is told by the spec, and what they read (documents, lengths, slopes) are
// tensors of the tape.

#include "core/recorder.h"

namespace capstan {

struct AttentionMaskSpec {
  bool causal = true;
  int64_t window = 0;     ///< 0: whole context
  Value query_documents;  ///< (batch, queries) i32 or absent: attention stays inside documents
  Value key_documents;    ///< (batch, keys) i32, together with the above
  Value key_lengths;      ///< (batch) i32 or absent: keys filled so far
  Value prefix_lengths;   ///< (batch) i32 or absent: keys below it are visible to all
  Value alibi_slopes;     ///< (heads) f32 or absent
  Value distance_bias;    ///< (distances, heads) or absent: added to scores by distance; has a gradient
  Value relative_q;       ///< as q, together with the next, or absent: Transformer-XL's term; both have gradients
  Value relative_k;       ///< (distances, heads * size)
};

struct AttentionSpec {
  int64_t heads = 1;
  int64_t kv_heads = 1;
  double scale = 1.0;
  double dropout = 0.0;
  uint64_t site = 0;  ///< tells the dropouts of a model apart
};

/// q (batch, queries, heads * size), k and v (batch, keys, kv_heads * size) -> (batch, queries, heads * size).
Value attention(Recorder& recorder, Value q, Value k, Value v, const AttentionSpec& spec,
                const AttentionMaskSpec& mask);

struct RotarySpec {
  int64_t heads = 1;
  int64_t rotary_dims = 0;  ///< of each head
  double base = 10000.0;
  kernels::RotaryScale scale;
  bool interleaved = false;
};

/// x (batch, rows, heads * size), positions (batch, rows) i32.
Value rotary(Recorder& recorder, Value x, Value positions, const RotarySpec& spec);

/// Writes x (batch, rows, width) into the persistent cache (batch, capacity, width) so that it ends at key_lengths.
/// Returns the cache as an operand for attention.
Value append_to_cache(Recorder& recorder, Value x, Value key_lengths, Value cache);

}  // namespace capstan
