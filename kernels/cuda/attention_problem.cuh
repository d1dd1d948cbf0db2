#pragma once
// One call of attention as its kernels see it, and its rules for single scores. By the contract (ids of a sequence
// never decrease) the keys that a query sees are one run [low, high), and both ends never fall from query to query.
// Documents become segments: runs of queries with runs of keys, each attended to as if it were alone, with rows outside
// it read as zeros. So inner loops know no documents, and not even a NaN passes from one to another.

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace capstan::kernels::cuda {

struct AttentionProblem {
  int batch, queries, keys, heads, kv_heads, group, head_size;
  int64_t q_stride, kv_stride, o_stride, statistic_stride;
  float scale;
  bool causal, is_block, merge, accumulate;
  bool vectors, relative_vectors;  // rows of all operands, of relative queries, begin at multiples of 16 bytes
  int window;
  int block_offset;  // the place of query 0 where this is a block
  int first_key;
  int bias_distances, relative_distances;
  AttentionMask mask;
  // Dropout: element (b, h, i, j) has index ((sample + b) all_heads + first_head + h) rows + first_query + i, times
  // columns, plus first_key + j.
  const uint64_t *dropout_key, *dropout_sample;
  uint64_t dropout_stream, all_heads, first_head, dropout_rows, first_query, dropout_columns;
  uint32_t drop_below;
  float kept;  // 1 / (1 - p); 0: no dropout
  const void *q, *k, *v, *d_o;
  void* o;  // only read by the backward
  float* logsumexp;
  float* delta;  // o . d_o of each row
  void *dq, *dk, *dv, *d_relative_q;
};

inline bool has_extras(const AttentionProblem& p) {
  return p.mask.alibi_slopes != nullptr || p.bias_distances > 0 || p.relative_distances > 0 || p.kept > 0.0f;
}

/// Whether all rows of an operand begin at multiples of 16 bytes.
inline bool rows_are_vectors(const void* base, int64_t stride, int64_t head_size, size_t element) {
  const uintptr_t odd = reinterpret_cast<uintptr_t>(base) | static_cast<uintptr_t>(stride) * element |
                        static_cast<uintptr_t>(head_size) * element;
  return odd % 16 == 0;
}

template <typename Args>
AttentionProblem attention_problem(const Args& args) {
  const AttentionShape& s = args.shape;
  if (s.head_size < 1 || s.head_size > 256)
    throw std::invalid_argument("attention: heads of " + std::to_string(s.head_size) +
                                " elements; the CUDA backend has kernels for 1 to 256");
  AttentionProblem p{};
  p.batch = static_cast<int>(s.batch), p.queries = static_cast<int>(s.queries), p.keys = static_cast<int>(s.keys);
  p.heads = static_cast<int>(s.heads), p.kv_heads = static_cast<int>(s.kv_heads);
  p.group = static_cast<int>(s.heads / s.kv_heads), p.head_size = static_cast<int>(s.head_size);
  p.q_stride = s.q_stride, p.kv_stride = s.kv_stride, p.o_stride = s.o_stride;
  p.statistic_stride = s.statistic_stride > 0 ? s.statistic_stride : s.queries;
  p.scale = static_cast<float>(s.scale);
  p.causal = s.causal, p.is_block = s.is_block();
  p.window = static_cast<int>(s.window);
  p.block_offset = p.is_block ? static_cast<int>(s.offset(0)) : 0;
  p.first_key = static_cast<int>(s.first_key);
  p.bias_distances = static_cast<int>(s.bias_distances), p.relative_distances = static_cast<int>(s.relative_distances);
  p.mask = args.mask;
  if (args.dropout.probability > 0.0) {
    p.dropout_key = args.dropout.key, p.dropout_sample = args.dropout.first_sample;
    p.dropout_stream = args.dropout.stream;
    p.all_heads = static_cast<uint64_t>(s.all_heads > 0 ? s.all_heads : s.heads);
    p.first_head = static_cast<uint64_t>(s.first_head);
    p.dropout_rows = static_cast<uint64_t>(p.is_block ? s.all_queries : s.queries);
    p.first_query = static_cast<uint64_t>(s.first_query);
    p.dropout_columns = s.dropout_columns();
    p.drop_below = drop_threshold(args.dropout.probability);
    p.kept = static_cast<float>(1.0 / (1.0 - args.dropout.probability));
  }
  p.q = args.q, p.k = args.k, p.v = args.v;
  const size_t element = bytes_of(s.dtype);
  p.vectors = rows_are_vectors(args.q, s.q_stride, s.head_size, element) &&
              rows_are_vectors(args.k, s.kv_stride, s.head_size, element) &&
              rows_are_vectors(args.v, s.kv_stride, s.head_size, element);
  p.relative_vectors =
      s.relative_distances > 0 && rows_are_vectors(args.mask.relative_q, s.q_stride, s.head_size, element);
  return p;
}

/// Queries [q0, q1) that see keys of [k0, k1) only, by the remaining rules; query i stands at i + offset.
struct AttentionSegment {
  int q0, q1, k0, k1, offset, prefix;
};

CAPSTAN_WARP_FUNCTION int lowest_key(const AttentionProblem& p, const AttentionSegment& s, int i) {
  return p.window > 0 ? max(s.k0, min(s.k1, i + s.offset - p.window + 1)) : s.k0;
}
/// One behind the highest.
CAPSTAN_WARP_FUNCTION int highest_key(const AttentionProblem& p, const AttentionSegment& s, int i) {
  const int place = i + s.offset;
  const int end = p.causal ? max(place + 1, s.prefix) : p.window > 0 ? place + p.window : s.k1;
  return max(lowest_key(p, s, i), min(s.k1, end));
}

/// Where tiles of keys begin that shall hold key j: with dropout, where a block of random words begins.
CAPSTAN_WARP_FUNCTION int first_column(const AttentionProblem& p, int j) {
  return p.kept > 0.0f ? j - ((p.first_key + j) & 3) : j;
}

/// The queries of the segment for which some of its keys may be visible: [first, last).
CAPSTAN_WARP_FUNCTION int first_query_of(const AttentionProblem& p, const AttentionSegment& s) {
  if (p.causal) return s.prefix > s.k0 ? s.q0 : max(s.q0, s.k0 - s.offset);
  return p.window > 0 ? max(s.q0, s.k0 - p.window + 1 - s.offset) : s.q0;
}
CAPSTAN_WARP_FUNCTION int last_query_of(const AttentionProblem& p, const AttentionSegment& s) {
  return p.window > 0 ? min(s.q1, s.k1 + p.window - 1 - s.offset) : s.q1;
}

/// The first of `count` ids that is at least `id`, else count. All lanes of a warp probe together.
CAPSTAN_WARP_FUNCTION int first_at_least(const int32_t* ids, int count, int64_t id) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int low = 0, size = count;
  while (size > 0) {
    const int step = (size + 31) / 32, probe = low + (lane + 1) * step - 1;
    const bool below = probe < low + size && ids[probe] < id;
    const unsigned lanes = __ballot_sync(0xffffffffu, below);
    int blocks = 0;  // leading lanes whose probe is below
    while (blocks < 32 && (lanes >> blocks & 1u) != 0) ++blocks;
    const int end = low + size;
    low += blocks * step;
    size = min(step - 1, end - low);
  }
  return low;
}

CAPSTAN_WARP_FUNCTION int key_length_of(const AttentionProblem& p, int b) {
  return p.mask.key_lengths ? max(0, min(p.mask.key_lengths[b], p.keys)) : p.keys;
}

CAPSTAN_WARP_FUNCTION AttentionSegment whole_of(const AttentionProblem& p, int b) {
  const int length = key_length_of(p, b);
  return {0,
          p.queries,
          0,
          length,
          p.is_block ? p.block_offset : length - p.queries,
          p.mask.prefix_lengths ? p.mask.prefix_lengths[b] - p.first_key : 0};
}

/// The segment that begins at query q0 and ends at or before `end`.
CAPSTAN_WARP_FUNCTION AttentionSegment segment_of_queries(const AttentionProblem& p, int b, int q0, int end) {
  AttentionSegment s = whole_of(p, b);
  s.q0 = q0, s.q1 = end;
  if (p.mask.query_documents) {
    const int32_t* queries = p.mask.query_documents + static_cast<int64_t>(b) * p.queries;
    const int32_t* keys = p.mask.key_documents + static_cast<int64_t>(b) * p.keys;
    const int64_t document = queries[q0];
    s.q1 = q0 + first_at_least(queries + q0, end - q0, document + 1);
    s.k0 = first_at_least(keys, s.k1, document);
    s.k1 = s.k0 + first_at_least(keys + s.k0, s.k1 - s.k0, document + 1);
  }
  return s;
}

/// The segment that begins at key k0 and ends at or before `end`; keys behind the key length are seen by no query.
CAPSTAN_WARP_FUNCTION AttentionSegment segment_of_keys(const AttentionProblem& p, int b, int k0, int end) {
  AttentionSegment s = whole_of(p, b);
  const int length = s.k1;
  s.k0 = k0, s.k1 = end;
  if (k0 >= length) {
    s.q1 = 0;
    return s;
  }
  s.k1 = min(end, length);
  if (p.mask.key_documents) {
    const int32_t* queries = p.mask.query_documents + static_cast<int64_t>(b) * p.queries;
    const int32_t* keys = p.mask.key_documents + static_cast<int64_t>(b) * p.keys;
    const int64_t document = keys[k0];
    s.k1 = k0 + first_at_least(keys + k0, s.k1 - k0, document + 1);
    s.q0 = first_at_least(queries, p.queries, document);
    s.q1 = s.q0 + first_at_least(queries + s.q0, p.queries - s.q0, document + 1);
  }
  const int first = first_query_of(p, s), last = last_query_of(p, s);
  s.q0 = first, s.q1 = max(first, last);
  return s;
}

/// One head of one sequence: addends to scores, dropout, where rows lie.
struct AttentionHead {
  int b, h, offset;
  float slope;
  uint64_t key, first_index;  // of dropout: of query 0 and key 0

  CAPSTAN_WARP_FUNCTION AttentionHead(const AttentionProblem& p, int batch, int head, int place) {
    b = batch, h = head, offset = place;
    slope = p.mask.alibi_slopes ? p.mask.alibi_slopes[head] : 0.0f;
    key = first_index = 0;
    if (p.kept > 0.0f) {
      key = *p.dropout_key;
      const uint64_t sample = *p.dropout_sample + static_cast<uint64_t>(b);
      const uint64_t row = (sample * p.all_heads + p.first_head + static_cast<uint64_t>(h)) * p.dropout_rows;
      first_index = (row + p.first_query) * p.dropout_columns + static_cast<uint64_t>(p.first_key);
    }
  }

  /// ALiBi and the table by distance.
  template <typename T>
  CAPSTAN_WARP_FUNCTION float bias(const AttentionProblem& p, int i, int j) const {
    const int distance = i + offset - j;
    float sum = -slope * static_cast<float>(p.causal ? distance : abs(distance));
    if (p.bias_distances > 0) {
      const int row = max(0, min(p.bias_distances - 1, distance));
      sum += widen(static_cast<const T*>(p.mask.distance_bias)[static_cast<int64_t>(row) * p.heads + h]);
    }
    return sum;
  }

  CAPSTAN_WARP_FUNCTION uint64_t dropout_index(const AttentionProblem& p, int i, int j) const {
    return first_index + static_cast<uint64_t>(static_cast<int64_t>(i) * static_cast<int64_t>(p.dropout_columns) + j);
  }

  CAPSTAN_WARP_FUNCTION int64_t query_at(const AttentionProblem& p, int i) const {
    return (static_cast<int64_t>(b) * p.queries + i) * p.q_stride + static_cast<int64_t>(h) * p.head_size;
  }
  CAPSTAN_WARP_FUNCTION int64_t output_at(const AttentionProblem& p, int i) const {
    return (static_cast<int64_t>(b) * p.queries + i) * p.o_stride + static_cast<int64_t>(h) * p.head_size;
  }
  CAPSTAN_WARP_FUNCTION int64_t key_at(const AttentionProblem& p, int j) const {
    return (static_cast<int64_t>(b) * p.keys + j) * p.kv_stride + static_cast<int64_t>(h / p.group) * p.head_size;
  }
  CAPSTAN_WARP_FUNCTION int64_t statistic_at(const AttentionProblem& p, int i) const {
    return (static_cast<int64_t>(b) * p.heads + h) * p.statistic_stride + i;
  }
  /// Of `delta`, which is dense.
  CAPSTAN_WARP_FUNCTION int64_t row_at(const AttentionProblem& p, int i) const {
    return (static_cast<int64_t>(b) * p.heads + h) * p.queries + i;
  }
  /// Element `dim` of the relative key of a distance; 0 behind the head.
  template <typename T>
  CAPSTAN_WARP_FUNCTION T relative_key(const AttentionProblem& p, int distance, int dim) const {
    T none;
    narrow(none, 0.0f);
    if (dim >= p.head_size) return none;
    const int row = max(0, min(p.relative_distances - 1, distance));
    return static_cast<const T*>(p.mask.relative_k)[(static_cast<int64_t>(row) * p.heads + h) * p.head_size + dim];
  }
  /// Element `dim` of the relative query of query i; 0 outside of [0, end).
  template <typename T>
  CAPSTAN_WARP_FUNCTION T relative_query(const AttentionProblem& p, int i, int end, int dim) const {
    T none;
    narrow(none, 0.0f);
    if (i < 0 || i >= end || dim >= p.head_size) return none;
    return static_cast<const T*>(p.mask.relative_q)[query_at(p, i) + dim];
  }
};

/// Whether the weight of a pair is dropped: 0 or 1.
CAPSTAN_WARP_FUNCTION uint32_t dropped_of(const AttentionProblem& p, const AttentionHead& head, int i, int j) {
  return philox_word(head.key, p.dropout_stream, head.dropout_index(p, i, j)) < p.drop_below;
}
/// Of keys j and j + 1, as two bits; most such pairs lie in one block of random words.
CAPSTAN_WARP_FUNCTION uint32_t dropped_of_row(const AttentionProblem& p, const AttentionHead& head, int i, int j) {
  const uint64_t index = head.dropout_index(p, i, j);
  const PhiloxBlock x = philox(head.key, index >> 2, p.dropout_stream);
  const int at = static_cast<int>(index & 3u);
  const uint32_t first = at == 0 ? x[0] : at == 1 ? x[1] : at == 2 ? x[2] : x[3];
  uint32_t second = at == 0 ? x[1] : at == 1 ? x[2] : x[3];
  if (at == 3) second = philox_word(head.key, p.dropout_stream, index + 1);
  return (first < p.drop_below ? 1u : 0u) | (second < p.drop_below ? 2u : 0u);
}

}  // namespace capstan::kernels::cuda
