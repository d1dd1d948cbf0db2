#pragma once
// Fused scaled dot-product attention with its backward; no T x T matrix is ever in memory (Dao et al.,
// "FlashAttention", 2022: tiles with a running maximum and sum; backward recomputes the weights from the logsumexp).
//   s(i, j) = scale q_i . k_j + bias_h(i, j);   w = softmax over the visible j;   o_i = sum_j w(i, j) drop(i, j) v_j
// Query head h reads key/value head h / (heads / kv_heads). Positions: query i of a sequence stands at
// i + offset_b, offset_b = key_length_b - queries (0 when a sequence attends to itself); key j stands at j.
// A call may cover a block of longer sequences: queries first_query .. of all_queries against keys first_key .. of
// all_keys. Then i and j below are those of the whole sequences, and every rule is as if these were attended to at
// once. Blocks of keys are put together by `merge` (the outputs of two sets of keys, weighted by their sums of
// exponentials), and their gradients by `accumulate`, given the output and the logsumexp over all keys. The mask is a
// value: key j is visible to query i (at absolute place p = i + offset) when all given rules hold:
//   causal: j <= p, or j < prefix_b when prefix lengths are given     window w > 0: p - j < w (and j - p < w if not
//   causal) documents: document(query) == document(key)      key_length: j < key_length_b
// A query that sees no key gives 0 and a logsumexp of -inf. bias_h(i, j) is the sum of what is given, d being p - j
// brought into [0, distances):   ALiBi: -slope_h (p - j) (|p - j| if not causal)   a table by distance (T5's buckets):
// bias[d, h]   the relative term of Transformer-XL (Dai et al., 2019): scale relative_q_i . relative_k[d, h].
// A result for one document never depends, bit for bit, on the contents of another document in the same sequence.
// Dropout on w keeps element (b, h, i, j) by philox_word(key, stream, ((sample_b * heads + h) * T_q + i) * T_k + j),
// sample_b = first_sample + b, kept weights scaled by 1/(1-p). A call over some of the heads of a model says so by
// first_head and all_heads, so that each weight keeps its random word: h and heads are then those of the model.

#include <cstdint>

#include "kernels/dropout.h"
#include "kernels/types.h"

namespace capstan::kernels {

struct AttentionShape {
  int64_t batch = 0, queries = 0, keys = 0;  ///< keys: extent of k and v (upper bound when key_lengths are given)
  int64_t heads = 0, kv_heads = 0, head_size = 0;
  int64_t q_stride = 0, kv_stride = 0,
          o_stride = 0;  ///< elements from token to token; heads are adjacent: h * head_size
  double scale = 1.0;
  bool causal = true;
  int64_t window = 0;  ///< 0: none
  DType dtype = DType::f32;
  int64_t first_head = 0, all_heads = 0;  ///< which query heads these are, for dropout; all_heads = 0: all of them
  /// Which queries and keys these are; all_queries = all_keys = 0: all of them. Key lengths do not go with a block.
  int64_t first_query = 0, all_queries = 0, first_key = 0, all_keys = 0;
  int64_t statistic_stride = 0;    ///< of logsumexp, from head to head; 0: queries
  int64_t bias_distances = 0;      ///< rows of the table by distance; 0: there is none
  int64_t relative_distances = 0;  ///< rows of relative_k; 0: no relative term

  bool is_block() const { return all_queries > 0; }
  /// Where query 0 stands when key 0 stands at 0; key_length: of the sequence at hand.
  int64_t offset(int64_t key_length) const {
    return is_block() ? all_keys - all_queries + first_query - first_key : key_length - queries;
  }
  /// Logical indices of dropout: of query 0 of head `head` of sample `sample`, times the keys, plus that of key 0.
  uint64_t first_dropout_row(uint64_t sample, int64_t head) const {
    const uint64_t heads_of_model = static_cast<uint64_t>(all_heads > 0 ? all_heads : heads);
    const uint64_t rows = static_cast<uint64_t>(is_block() ? all_queries : queries);
    return (sample * heads_of_model + static_cast<uint64_t>(first_head + head)) * rows +
           static_cast<uint64_t>(first_query);
  }
  uint64_t dropout_columns() const { return static_cast<uint64_t>(is_block() ? all_keys : keys); }
  int64_t statistic(int64_t b, int64_t head) const {
    return (b * heads + head) * (statistic_stride > 0 ? statistic_stride : queries);
  }
};

struct AttentionMask {
  const int32_t* query_documents = nullptr;  ///< [batch, queries] or null; ids of one sequence never decrease
  const int32_t* key_documents = nullptr;    ///< [batch, keys] or null, together with the above
  const int32_t* key_lengths = nullptr;      ///< [batch] or null: all keys
  const int32_t* prefix_lengths = nullptr;   ///< [batch] or null
  const float* alibi_slopes = nullptr;       ///< [heads] or null
  const void* distance_bias = nullptr;       ///< [bias_distances, heads] when there is such a table
  const void* relative_q = nullptr;          ///< as q, when there is a relative term
  const void* relative_k = nullptr;          ///< [relative_distances, heads, head_size], dense
};

struct AttentionArgs {
  AttentionShape shape;
  AttentionMask mask;
  Dropout dropout;
  const void* q = nullptr;  ///< (batch, queries, heads, head_size), strides above
  const void* k = nullptr;  ///< (batch, keys, kv_heads, head_size)
  const void* v = nullptr;
  void* o = nullptr;          ///< (batch, queries, heads, head_size)
  void* logsumexp = nullptr;  ///< [batch, heads, queries] in accumulation_of(dtype); null when no backward follows
  void* scratch = nullptr;    ///< Backend::attention_scratch(shape) bytes
  /// o, which is then in accumulation_of(dtype), and logsumexp hold the result over other keys, 0 and -inf over none:
  /// what these keys give is merged into it.
  bool merge = false;
  Stream stream = nullptr;
};

struct AttentionBackwardArgs {
  AttentionShape shape;
  AttentionMask mask;
  Dropout dropout;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* o = nullptr;
  const void* logsumexp = nullptr;
  const void* d_o = nullptr;  ///< strides as o
  void* dq = nullptr;         ///< strides as q; may not alias inputs
  void* dk = nullptr;         ///< strides as k; summed over the query heads of the group in a fixed order
  void* dv = nullptr;
  void* scratch = nullptr;          ///< Backend::attention_backward_scratch(shape) bytes
  bool accumulate = false;          ///< all gradients are in accumulation_of(dtype) and are added to
  void* d_distance_bias = nullptr;  ///< of the mask's operands of these names, shaped as they are
  void* d_relative_q = nullptr;
  void* d_relative_k = nullptr;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
