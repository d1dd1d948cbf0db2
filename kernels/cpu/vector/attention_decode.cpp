// Attention of a few queries over a long cache, as when tokens are generated: it is bound by reading k and v, so
// nothing is packed and both are read once for all heads of a group. Work is cut by (sequence, key/value head) and,
// when that is too few for the threads, by runs of keys whose partial results are combined in ascending order.

#include "kernels/cpu/vector/attention_decode.h"

#include <omp.h>

#include "kernels/cpu/vector/attention_distance.h"
#include "kernels/cpu/vector/math.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kChunk = 64;         // keys whose scores are held at a time
constexpr int64_t kDecodeQueries = 4;  // up to here
constexpr int64_t kAhead = 16;         // keys
constexpr int kHeadsAtOnce = 4;        // rows that share one reading of k
constexpr int kSums = 4;               // vectors of an output summed at a time

struct Layout {
  HeadSizes head;
  int64_t units, splits = 1, rows;
  int64_t row_floats;  // maximum, sum (one vector), then the output
  int64_t queries = 0, relative_queries, scores, thread_floats, item_floats, distance_rows, floats;
  DistanceRows distances;

  Layout(const AttentionShape& s, int threads)
      : head(s), units(s.batch * s.kv_heads), rows(head.group * s.queries), distances(s) {
    const int64_t most = smaller<int64_t>(threads, larger<int64_t>(1, s.keys / 256));
    const auto share_used = [&](int64_t n) {
      return static_cast<double>(n) / static_cast<double>(round_up(n, threads));
    };
    while (units > 0 && splits < most && share_used(units * splits) < 0.8) ++splits;
    row_floats = kLanes + head.padded;
    relative_queries = queries + kHeadsAtOnce * head.stride;
    scores = relative_queries + (s.relative_distances > 0 ? kHeadsAtOnce * head.stride : 0);
    thread_floats = round_up(scores + kHeadsAtOnce * kChunk, 32);
    item_floats = round_up(rows * row_floats, 32);
    distance_rows = threads * thread_floats + units * splits * item_floats;
    floats = distance_rows + distances.floats;
  }
};

/// Rows of a head are short and far apart, which the processor does not foresee.
template <typename T>
[[gnu::always_inline]] inline void prefetch_row(const T* row, int64_t size) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t d = 0; d < size; d += line) __builtin_prefetch(row + d);
}

/// scores[h][j] = q_h . k_j for Heads heads and the keys of a chunk.
template <int Heads, typename T>
[[gnu::noinline]] void score_chunk(const float* q, const T* k, const T* v, int64_t stride, int64_t keys,
                                   const HeadSizes& head, float* scores) {
  const int64_t full = head.size / kLanes * kLanes;
  const Part rest{static_cast<int>(head.size - full)};
  for (int64_t j = 0; j < keys; ++j, k += stride, v += stride) {
    prefetch_row(k + kAhead * stride, head.size);
    prefetch_row(v, head.size);
    F sum[Heads] = {};
    for (int64_t d = 0; d < full; d += kLanes) {
      const F key = load(k + d);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) sum[h] = fma(load(q + h * head.stride + d), key, sum[h]);
    }
    if (rest.count > 0) {
      const F key = load(k + full, rest);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) sum[h] = fma(load(q + h * head.stride + full), key, sum[h]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) scores[h * kChunk + j] = sum_lanes(sum[h]);
  }
}

/// output = shrink * output + sum over j of weights[j] v_j.
template <typename T>
[[gnu::noinline]] void add_values(const float* weights, const T* v, int64_t stride, int64_t keys, const HeadSizes& head,
                                  float shrink, float* output) {
  int64_t d = 0;
  for (; d + kSums * kLanes <= head.size; d += kSums * kLanes) {
    F sum[kSums];
#pragma GCC unroll 4
    for (int n = 0; n < kSums; ++n) sum[n] = load(output + d + n * kLanes) * shrink;
    for (int64_t j = 0; j < keys; ++j) {
      const F weight = splat(weights[j]);
#pragma GCC unroll 4
      for (int n = 0; n < kSums; ++n) sum[n] = fma(weight, load(v + j * stride + d + n * kLanes), sum[n]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < kSums; ++n) store(output + d + n * kLanes, sum[n]);
  }
  for (; d + kLanes <= head.size; d += kLanes) {
    F sum = load(output + d) * shrink;
    for (int64_t j = 0; j < keys; ++j) sum = fma(splat(weights[j]), load(v + j * stride + d), sum);
    store(output + d, sum);
  }
  if (d < head.size) {
    const Part rest{static_cast<int>(head.size - d)};
    F sum = load(output + d) * shrink;
    for (int64_t j = 0; j < keys; ++j) sum = fma(splat(weights[j]), load(v + j * stride + d, rest), sum);
    store(output + d, sum);
  }
}

/// Scores of a chunk become weights relative to the running maximum; returns what the sums so far shrink by.
[[gnu::always_inline]] inline float soften_chunk(float* scores, int64_t keys, const Alibi& alibi, int64_t place,
                                                 int64_t j, float* statistics) {
  const F none = splat(-__builtin_inff());
  F top = none;
  for (int64_t e = 0; e < keys; e += kLanes) {
    F s = load(scores + e);
    if (alibi.slope != 0.0f) s += alibi.bias(place, j + e);
    if (e + kLanes > keys) s = lanes_within(e, 0, keys) ? s : none;
    store(scores + e, s);
    top = max(s, top);
  }
  const float before = statistics[0], chunk_top = max_lanes(top);
  const float now = chunk_top > before ? chunk_top : before;
  const F base = splat(now == -__builtin_inff() ? 0.0f : now);
  F total{};
  for (int64_t e = 0; e < keys; e += kLanes) {
    const F weight = exp(load(scores + e) - base);
    store(scores + e, weight);
    total += weight;
  }
  const float shrink = exp(splat(before) - base)[0];
  statistics[0] = now;
  statistics[1] = statistics[1] * shrink + sum_lanes(total);
  return shrink;
}

/// scores[j] += query . the relative key of each key's distance from `place`.
template <typename T>
[[gnu::noinline]] void add_relative_scores(const AttentionShape& s, const void* relative_k, int64_t h, int64_t place,
                                           int64_t j, int64_t keys, const float* query, float* scores) {
  for (int64_t e = 0; e < keys; ++e) {
    const T* key = relative_row<T>(s, relative_k, h, place - j - e);
    F sum{};
    each_vector(
        0, s.head_size, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
          sum = fma(load(query + d, lanes), load(key + d, lanes), sum);
        });
    scores[e] += sum_lanes(sum);
  }
}

/// Up to kHeadsAtOnce heads of a group, one query, keys [begin, end).
template <typename T>
void attend_heads(const AttentionArgs& args, const Layout& layout, int64_t b, int64_t h, int64_t heads, int64_t i,
                  int64_t offset, int64_t begin, int64_t end, float* base, float* rows) {
  const AttentionShape& s = args.shape;
  const HeadSizes& head = layout.head;
  float *queries = base + layout.queries, *scores = base + layout.scores;
  pack_plain(static_cast<const T*>(args.q) + (b * s.queries + i) * s.q_stride + h * head.size, head.size, heads, head,
             static_cast<float>(s.scale), queries);
  if (s.relative_distances > 0)
    pack_plain(static_cast<const T*>(args.mask.relative_q) + (b * s.queries + i) * s.q_stride + h * head.size,
               head.size, heads, head, static_cast<float>(s.scale), base + layout.relative_queries);
  const float* distance_rows = static_cast<const float*>(args.scratch) + layout.distance_rows;
  for (int64_t j = begin; j < end; j += kChunk) {
    const int64_t keys = smaller(kChunk, end - j);
    const int64_t at = (b * s.keys + j) * s.kv_stride + h / head.group * head.size;
    const T *k = static_cast<const T*>(args.k) + at, *v = static_cast<const T*>(args.v) + at;
    if (heads == 4) {
      score_chunk<4>(queries, k, v, s.kv_stride, keys, head, scores);
    } else if (heads >= 2) {
      score_chunk<2>(queries, k, v, s.kv_stride, keys, head, scores);
      if (heads == 3) score_chunk<1>(queries + 2 * head.stride, k, v, s.kv_stride, keys, head, scores + 2 * kChunk);
    } else {
      score_chunk<1>(queries, k, v, s.kv_stride, keys, head, scores);
    }
    for (int64_t n = 0; n < heads; ++n) {
      const Alibi alibi{args.mask.alibi_slopes ? args.mask.alibi_slopes[h + n] : 0.0f, !s.causal};
      float* row = rows + n * s.queries * layout.row_floats;
      if (s.bias_distances > 0) {
        const float* addends = distance_rows + layout.distances.at(h + n, i + offset, j);
        for (int64_t e = 0; e < keys; e += kLanes)
          store(scores + n * kChunk + e, load(scores + n * kChunk + e) + load(addends + e));
      }
      if (s.relative_distances > 0)
        add_relative_scores<T>(s, args.mask.relative_k, h + n, i + offset, j, keys,
                               base + layout.relative_queries + n * head.stride, scores + n * kChunk);
      const float shrink = soften_chunk(scores + n * kChunk, keys, alibi, i + offset, j, row);
      add_values(scores + n * kChunk, v, s.kv_stride, keys, head, shrink, row + kLanes);
    }
  }
}

/// All rows of one unit over its split of the keys. Row (head of the group g, query i) is g * queries + i.
template <typename T>
void attend_item(const AttentionArgs& args, const Layout& layout, int64_t item, float* base, float* rows) {
  const AttentionShape& s = args.shape;
  const HeadSizes& head = layout.head;
  const int64_t unit = item / layout.splits, split = item % layout.splits;
  const int64_t b = unit / s.kv_heads, kv_head = unit % s.kv_heads;
  for (int64_t r = 0; r < layout.rows; ++r) {
    float* row = rows + r * layout.row_floats;
    for (int64_t e = 0; e < layout.row_floats; e += kLanes) store(row + e, F{});
    row[0] = -__builtin_inff();
  }
  for (int64_t i = 0; i < s.queries; ++i) {
    const Segment seg = segment_from(s, args.mask, b, i, i + 1);
    const int64_t low = seg.low(i), high = seg.high(i);
    const int64_t share = round_up(blocks_of(high - low, layout.splits), kChunk);
    const int64_t begin = smaller(high, low + share * split), end = smaller(high, begin + share);
    for (int64_t g = 0; g < head.group; g += kHeadsAtOnce)
      attend_heads<T>(args, layout, b, kv_head * head.group + g, smaller<int64_t>(kHeadsAtOnce, head.group - g), i,
                      seg.offset, begin, end, base, rows + (g * s.queries + i) * layout.row_floats);
  }
}

/// One row of all splits: into the output and the logsumexp.
template <typename T>
void finish_row(const AttentionArgs& args, const Layout& layout, int64_t unit, int64_t r, float* rows) {
  const AttentionShape& s = args.shape;
  const HeadSizes& head = layout.head;
  const int64_t b = unit / s.kv_heads, h = unit % s.kv_heads * head.group + r / s.queries, i = r % s.queries;
  float* row = rows + r * layout.row_floats;
  for (int64_t split = 1; split < layout.splits; ++split) {
    const float* other = row + split * layout.item_floats;
    const float now = other[0] > row[0] ? other[0] : row[0];
    const F base = splat(now == -__builtin_inff() ? 0.0f : now);
    const F mine = exp(splat(row[0]) - base), theirs = exp(splat(other[0]) - base);
    row[0] = now;
    row[1] = row[1] * mine[0] + other[1] * theirs[0];
    for (int64_t d = kLanes; d < layout.row_floats; d += kLanes)
      store(row + d, fma(load(other + d), theirs, load(row + d) * mine));
  }
  const int64_t at = (b * s.queries + i) * s.o_stride + h * head.size;
  float* logsumexp = args.logsumexp ? static_cast<float*>(args.logsumexp) + s.statistic(b, h) + i : nullptr;
  if (args.merge) return merge_row(head, row + kLanes, row[0], row[1], static_cast<float*>(args.o) + at, *logsumexp);
  store_row(head, row + kLanes, row[1] == 0.0f ? 0.0f : 1.0f / row[1], static_cast<T*>(args.o) + at);
  if (logsumexp) *logsumexp = row[0] + __builtin_logf(row[1]);
}

template <typename T>
void run(const AttentionArgs& args, int threads) {
  const Layout layout(args.shape, threads);
  const int64_t items = layout.units * layout.splits;
#pragma omp parallel num_threads(threads)
  {
    float* base = static_cast<float*>(args.scratch) + omp_get_thread_num() * layout.thread_floats;
    float* parts = static_cast<float*>(args.scratch) + threads * layout.thread_floats;
    if (args.shape.bias_distances > 0)
      fill_distance_rows(args.shape, args.mask, layout.distances,
                         static_cast<float*>(args.scratch) + layout.distance_rows);
#pragma omp for schedule(static, 1)
    for (int64_t item = 0; item < items; ++item)
      attend_item<T>(args, layout, item, base, parts + item * layout.item_floats);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < layout.units * layout.rows; ++n) {
      const int64_t unit = n / layout.rows;
      finish_row<T>(args, layout, unit, n % layout.rows, parts + unit * layout.splits * layout.item_floats);
    }
  }
}

}  // namespace

bool is_decoding(const AttentionShape& shape) { return shape.queries <= kDecodeQueries; }

size_t decode_scratch(const AttentionShape& shape, int threads) {
  return static_cast<size_t>(Layout(shape, threads).floats) * sizeof(float);
}

void decode(const AttentionArgs& args, int threads) {
  if (args.shape.dtype == DType::f32)
    run<float>(args, threads);
  else
    run<Bf16>(args, threads);
}

}  // namespace capstan::kernels::CAPSTAN_ISA
