#include <omp.h>

#include "kernels/cpu/vector/attention_backward_layout.h"
#include "kernels/cpu/vector/attention_distance.h"
#include "kernels/cpu/vector/attention_table.h"
#include "kernels/cpu/vector/math.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

/// What one thread works with: the layout's offsets count from `base`; dq is the buffer of the part.
struct Worker {
  const AttentionBackwardArgs& args;
  const BackwardLayout& layout;
  float* base;
  float* dq;
  float* sums;  // of the table by distance and of relative keys
};

/// delta of each query of the group's heads: the inner product of its output and the output's gradient.
template <typename T>
void outputs_by_gradients(const Worker& w, int64_t b, int64_t kv_head) {
  const AttentionShape& s = w.args.shape;
  const HeadSizes& head = w.layout.head;
  for (int64_t g = 0; g < head.group; ++g) {
    for (int64_t i = 0; i < s.queries; ++i) {
      const int64_t at = (b * s.queries + i) * s.o_stride + (kv_head * head.group + g) * head.size;
      const T* o = static_cast<const T*>(w.args.o) + at;
      const T* d_o = static_cast<const T*>(w.args.d_o) + at;
      F sum{};
      int64_t d = 0;
      for (; d + kLanes <= head.size; d += kLanes) sum = fma(load(o + d), load(d_o + d), sum);
      const Part rest{static_cast<int>(head.size - d)};
      if (d < head.size) sum = fma(load(o + d, rest), load(d_o + d, rest), sum);
      w.base[w.layout.delta() + g * s.queries + i] = sum_lanes(sum);
    }
  }
}

/// From scores and d(weights) of a row to the (dropped) weights and d(scores), both 0 where the key is not visible.
[[gnu::always_inline]] inline void differentiate_row(const ScoreTile& tile, int64_t r, const Alibi& alibi,
                                                     float logsumexp, float delta, const float* factors, float* weights,
                                                     float* dscores) {
  const int64_t first = tile.first(r), last = tile.last(r), place = tile.i0 + r + tile.segment->offset;
  const F base = splat(logsumexp), inner = splat(delta);
  const int64_t end = round_up(tile.columns, kLanes);
  for (int64_t j = 0; j < end; j += kLanes) {
    if (j >= last || j + kLanes <= first) {
      store(weights + j, F{});
      store(dscores + j, F{});
      continue;
    }
    F s = load(weights + j);
    if (alibi.slope != 0.0f) s += alibi.bias(place, tile.j0 + j);
    F weight = exp(s - base), dweight = load(dscores + j), dropped = weight;
    if (factors) {
      const F kept = load(factors + j);
      dropped = weight * kept;
      dweight = dweight * kept;
    }
    F dscore = weight * (dweight - inner);
    if (j < first || j + kLanes > last) {
      const I seen = lanes_within(j, first, last);
      dropped = seen ? dropped : F{};
      dscore = seen ? dscore : F{};
    }
    store(weights + j, dropped);
    store(dscores + j, dscore);
  }
}

/// dk and dv of the key block, += over the queries of the tile that see each group of keys.
void add_to_keys(const ScoreTile& tile, const Worker& w) {
  const HeadSizes& head = w.layout.head;
  float* base = w.base;
  int64_t first = 0, last = 0;  // queries that see the group of keys; both ends only move forward
  for (int64_t j = 0; j < tile.columns; j += kTileRows) {
    const int64_t keys = smaller<int64_t>(kTileRows, tile.columns - j);
    while (first < tile.rows && tile.last(first) <= j) ++first;
    last = larger(last, first);
    while (last < tile.rows && tile.first(last) < j + keys) ++last;
    if (last <= first) continue;
    const int64_t rows = last - first, from = first * kScoreStride + j, operand = first * head.stride;
    small_product<true, true>(
        keys, {rows, base + w.layout.weights + from, kScoreStride, base + w.layout.outputs + operand, head.stride,
               kTileColumns, head.padded, base + w.layout.dv + j * head.padded, head.padded});
    small_product<true, true>(
        keys, {rows, base + w.layout.dscores + from, kScoreStride, base + w.layout.queries + operand, head.stride,
               kTileColumns, head.padded, base + w.layout.dk + j * head.padded, head.padded});
  }
}

/// dq += d(scores) keys, over the keys that each group of queries sees.
void add_to_queries(const ScoreTile& tile, const Worker& w, float* dq) {
  const HeadSizes& head = w.layout.head;
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = smaller<int64_t>(kTileRows, tile.rows - r);
    const int64_t first = tile.first(r), last = tile.last(r + rows - 1);
    if (last <= first) continue;
    small_product<false, true>(rows, {last - first, w.base + w.layout.dscores + r * kScoreStride + first, kScoreStride,
                                      w.base + w.layout.keys + first * head.stride, head.stride, kTileColumns,
                                      head.padded, dq + r * head.padded, head.padded});
  }
}

/// Adds the relative keys' gradients of a tile to those of the part.
void give_relative_keys(const ScoreTile& tile, const Worker& w, int64_t g) {
  const AttentionShape& s = w.args.shape;
  const HeadSizes& head = w.layout.head;
  const RelativeTile relative{tile};
  float* sums = w.sums + w.layout.relative_sums + g * s.relative_distances * head.padded;
  const float* row = w.base + w.layout.relative_dkeys;
  for (int64_t t = 0; t < relative.columns(); ++t, row += head.padded) {
    float* to = sums + within(relative.distance(t), s.relative_distances) * head.padded;
    for (int64_t d = 0; d < head.padded; d += kLanes) store(to + d, load(to + d) + load(row + d));
  }
}

/// The biases by distance of one head, on the way to scores.
template <typename T>
void add_biases(const ScoreTile& tile, const Worker& w, int64_t row, int64_t h, float* scores) {
  const AttentionShape& s = w.args.shape;
  const BackwardLayout& layout = w.layout;
  if (s.bias_distances > 0)
    add_by_distance(tile,
                    static_cast<const float*>(w.args.scratch) + layout.distance_rows +
                        layout.distances.at(h, tile.i0 + tile.segment->offset, tile.j0),
                    -1, scores);
  if (s.relative_distances == 0) return;
  float *queries = w.base + layout.relative_queries, *panels = w.base + layout.relative_panels;
  pack_plain(static_cast<const T*>(w.args.mask.relative_q) + row * s.q_stride + h * s.head_size, s.q_stride, tile.rows,
             layout.head, static_cast<float>(s.scale), queries);
  pack_relative_panels<T>(s, w.args.mask.relative_k, h, {tile}, layout.head, panels);
  pack_relative_rows<T>(s, w.args.mask.relative_k, h, {tile}, layout.head, w.base + layout.relative_keys);
  add_relative(tile, layout.head, queries, panels, w.base + layout.relative_scores, scores);
}

/// And on the way back.
void differentiate_biases(const ScoreTile& tile, const Worker& w, int64_t g, const float* dscores) {
  const AttentionShape& s = w.args.shape;
  const BackwardLayout& layout = w.layout;
  if (s.bias_distances > 0)
    sum_by_distance(tile, dscores, -1, w.sums + layout.distances.at(g, tile.i0 + tile.segment->offset, tile.j0));
  if (s.relative_distances == 0) return;
  differentiate_relative(
      tile, layout.head, dscores,
      {w.base + layout.relative_queries, w.base + layout.relative_keys, w.base + layout.relative_scores,
       w.base + layout.relative_dkeys, w.dq + layout.relative_dq + (g * s.queries + tile.i0) * layout.head.padded});
  give_relative_keys(tile, w, g);
}

template <typename T>
void differentiate_tile(const ScoreTile& tile, const Worker& w, int64_t b, int64_t kv_head, int64_t g) {
  const AttentionShape& s = w.args.shape;
  const HeadSizes& head = w.layout.head;
  const int64_t h = kv_head * head.group + g, row = b * s.queries + tile.i0;
  float *base = w.base, *weights = base + w.layout.weights, *dscores = base + w.layout.dscores;
  pack_plain(static_cast<const T*>(w.args.q) + row * s.q_stride + h * head.size, s.q_stride, tile.rows, head,
             static_cast<float>(s.scale), base + w.layout.queries);
  pack_plain(static_cast<const T*>(w.args.d_o) + row * s.o_stride + h * head.size, s.o_stride, tile.rows, head, 1.0f,
             base + w.layout.outputs);
  score_product(tile, head, base + w.layout.queries, base + w.layout.key_panels, weights);
  add_biases<T>(tile, w, row, h, weights);
  score_product(tile, head, base + w.layout.outputs, base + w.layout.value_panels, dscores);
  const Alibi alibi{w.args.mask.alibi_slopes ? w.args.mask.alibi_slopes[h] : 0.0f, !s.causal};
  const RowDropout dropout(w.args.dropout, s, b, h);
  const float* logsumexp = static_cast<const float*>(w.args.logsumexp) + s.statistic(b, h) + tile.i0;
  const float* delta = base + w.layout.delta() + g * s.queries + tile.i0;
  float* factors = dropout.on ? base + w.layout.factors : nullptr;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (factors)
      dropout.factors(tile.i0 + r, tile.j0, tile.columns, reinterpret_cast<uint32_t*>(base + w.layout.words), factors);
    differentiate_row(tile, r, alibi, logsumexp[r], delta[r], factors, weights + r * kScoreStride,
                      dscores + r * kScoreStride);
  }
  differentiate_biases(tile, w, g, dscores);
  add_to_keys(tile, w);
  add_to_queries(tile, w, w.dq + (g * s.queries + tile.i0) * head.padded);
}

template <typename T>
void store_rows(const float* x, const HeadSizes& head, int64_t rows, float factor, T* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, x += head.padded, to += stride) {
    int64_t d = 0;
    for (; d + kLanes <= head.size; d += kLanes) store(to + d, load(x + d) * factor);
    if (d < head.size) store(to + d, load(x + d) * factor, Part{static_cast<int>(head.size - d)});
  }
}

/// Rows of gradients at element `at` of `to`: written, or added as floats.
template <typename T>
void give_rows(const AttentionBackwardArgs& args, const float* x, const HeadSizes& head, int64_t rows, float factor,
               void* to, int64_t at, int64_t stride) {
  if (!args.accumulate) return store_rows(x, head, rows, factor, static_cast<T*>(to) + at, stride);
  float* sums = static_cast<float*>(to) + at;
  for (int64_t r = 0; r < rows; ++r, x += head.padded, sums += stride)
    each_vector(
        0, head.size, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
          store(sums + d, fma(load(x + d, lanes), splat(factor), load(sums + d, lanes)), lanes);
        });
}

template <typename T>
void differentiate_keys(const Worker& w, int64_t b, int64_t kv_head, const Segment& seg, int64_t j) {
  const AttentionShape& s = w.args.shape;
  const HeadSizes& head = w.layout.head;
  const int64_t keys = smaller(kKeyBlock, seg.k1 - j), at = (b * s.keys + j) * s.kv_stride + kv_head * head.size;
  const T* k = static_cast<const T*>(w.args.k) + at;
  pack_panels(k, s.kv_stride, keys, head, w.base + w.layout.key_panels);
  pack_panels(static_cast<const T*>(w.args.v) + at, s.kv_stride, keys, head, w.base + w.layout.value_panels);
  pack_plain(k, s.kv_stride, keys, head, 1.0f, w.base + w.layout.keys);
  float *dk = w.base + w.layout.dk, *dv = w.base + w.layout.dv;
  for (int64_t e = 0; e < keys * head.padded; e += kLanes) store(dk + e, F{}), store(dv + e, F{});
  for (int64_t g = 0; g < head.group; ++g) {
    for (int64_t i = seg.q0; i < seg.q1; i += kQueryBlock) {
      const ScoreTile tile{&seg, i, smaller(kQueryBlock, seg.q1 - i), j, keys};
      if (tile.any()) differentiate_tile<T>(tile, w, b, kv_head, g);
    }
  }
  give_rows<T>(w.args, dk, head, keys, 1.0f, w.args.dk, at, s.kv_stride);
  give_rows<T>(w.args, dv, head, keys, 1.0f, w.args.dv, at, s.kv_stride);
}

/// Keys [begin, end) that no query sees.
template <typename T>
void clear_keys(const Worker& w, int64_t b, int64_t kv_head, int64_t begin, int64_t end) {
  const AttentionShape& s = w.args.shape;
  if (w.args.accumulate) return;
  for (int64_t j = begin; j < end; ++j) {
    const int64_t at = (b * s.keys + j) * s.kv_stride + kv_head * s.head_size;
    for (int64_t d = 0; d < s.head_size; ++d) {
      static_cast<T*>(w.args.dk)[at + d] = T{};
      static_cast<T*>(w.args.dv)[at + d] = T{};
    }
  }
}

template <typename T>
void differentiate_part(const Worker& w, int64_t unit, int64_t part) {
  const AttentionShape& s = w.args.shape;
  const int64_t b = unit / s.kv_heads, kv_head = unit % s.kv_heads;
  for (int64_t e = 0; e < w.layout.dq_floats; e += kLanes) store(w.dq + e, F{});
  for (int64_t e = 0; e < w.layout.item_floats; e += kLanes) store(w.sums + e, F{});
  outputs_by_gradients<T>(w, b, kv_head);
  int64_t done = 0, block = 0;  // keys seen so far; key blocks go to the parts in turn
  for (int64_t i = 0; i < s.queries;) {
    const Segment seg = segment_from(s, w.args.mask, b, i, s.queries);
    if (part == 0) clear_keys<T>(w, b, kv_head, done, seg.k0);
    for (int64_t j = seg.k0; j < seg.k1; j += kKeyBlock, ++block)
      if (block % w.layout.parts == part) differentiate_keys<T>(w, b, kv_head, seg, j);
    done = larger(done, seg.k1);
    i = seg.q1;
  }
  if (part == 0) clear_keys<T>(w, b, kv_head, done, s.keys);
}

/// dq of one unit: its parts, added in ascending order into the first one, which is then stored.
template <typename T>
void finish_queries(const AttentionBackwardArgs& args, const BackwardLayout& layout, float* dq, int64_t unit) {
  const AttentionShape& s = args.shape;
  const int64_t b = unit / s.kv_heads, kv_head = unit % s.kv_heads;
  for (int64_t part = 1; part < layout.parts; ++part) {
    const float* other = dq + part * layout.dq_floats;
    for (int64_t e = 0; e < layout.dq_floats; e += kLanes) store(dq + e, load(dq + e) + load(other + e));
  }
  for (int64_t g = 0; g < layout.head.group; ++g) {
    const int64_t from = g * s.queries * layout.head.padded;
    const int64_t to = b * s.queries * s.q_stride + (kv_head * layout.head.group + g) * s.head_size;
    const float scale = static_cast<float>(s.scale);
    give_rows<T>(args, dq + from, layout.head, s.queries, scale, args.dq, to, s.q_stride);
    if (s.relative_distances > 0)
      give_rows<T>(args, dq + layout.relative_dq + from, layout.head, s.queries, scale, args.d_relative_q, to,
                   s.q_stride);
  }
}

/// sums += those of all other sequences and parts that read this key/value head, in ascending order.
void add_items(const AttentionShape& s, const BackwardLayout& layout, float* sums) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t part = b == 0 ? 1 : 0; part < layout.parts; ++part) {
      const float* other = sums + (b * s.kv_heads * layout.parts + part) * layout.item_floats;
      for (int64_t e = 0; e < layout.item_floats; e += kLanes) store(sums + e, load(sums + e) + load(other + e));
    }
}

/// A head's row of sums by distance into its column of the table's gradient: ends of the table take what lies beyond.
template <typename T>
void give_table(const AttentionBackwardArgs& args, const DistanceRows& rows, const float* row, int64_t h) {
  const AttentionShape& s = args.shape;
  for (int64_t d = 0; d < s.bias_distances; ++d) {
    const int64_t first = d + 1 == s.bias_distances ? 0 : rows.highest - d;
    const int64_t last = d == 0 ? rows.count - 1 : rows.highest - d;
    float sum = 0.0f;
    for (int64_t e = larger<int64_t>(0, first); e <= smaller(last, rows.count - 1); ++e) sum += row[e];
    const int64_t at = d * s.heads + h;
    if (args.accumulate)
      static_cast<float*>(args.d_distance_bias)[at] += sum;
    else
      store(static_cast<T*>(args.d_distance_bias) + at, splat(sum), Part{1});
  }
}

/// What the heads of one key/value head give to the table and to the relative keys; `sums` are those of its first part.
template <typename T>
void finish_items(const AttentionBackwardArgs& args, const BackwardLayout& layout, int64_t kv_head, float* sums) {
  const AttentionShape& s = args.shape;
  add_items(s, layout, sums);
  for (int64_t g = 0; g < layout.head.group; ++g) {
    const int64_t h = kv_head * layout.head.group + g;
    if (s.bias_distances > 0) give_table<T>(args, layout.distances, sums + g * layout.distances.stride, h);
    if (s.relative_distances > 0)
      give_rows<T>(args, sums + layout.relative_sums + g * s.relative_distances * layout.head.padded, layout.head,
                   s.relative_distances, 1.0f, args.d_relative_k, h * s.head_size, s.heads * s.head_size);
  }
}

template <typename T>
void run(const AttentionBackwardArgs& args, int threads) {
  const BackwardLayout layout(args.shape, threads);
  float* scratch = static_cast<float*>(args.scratch);
  const int64_t items = layout.units * layout.parts;
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num(), team = omp_get_num_threads();
    float* base = scratch + layout.thread_base + me * layout.thread_floats;
    if (args.shape.bias_distances > 0)
      fill_distance_rows(args.shape, args.mask, layout.distances, scratch + layout.distance_rows);
    for (int64_t item = me; item < items; item += team) {
      const int64_t buffer = layout.parts == 1 ? me : item;
      const Worker worker{args, layout, base, scratch + buffer * layout.dq_floats,
                          scratch + layout.items_base + item * layout.item_floats};
      differentiate_part<T>(worker, item / layout.parts, item % layout.parts);
      if (layout.parts == 1) finish_queries<T>(args, layout, worker.dq, item);
    }
    if (layout.parts > 1) {
#pragma omp barrier
      for (int64_t unit = me; unit < layout.units; unit += team)
        finish_queries<T>(args, layout, scratch + unit * layout.parts * layout.dq_floats, unit);
    }
    if (layout.item_floats > 0) {
#pragma omp barrier
      for (int64_t kv_head = me; kv_head < args.shape.kv_heads; kv_head += team)
        finish_items<T>(args, layout, kv_head,
                        scratch + layout.items_base + kv_head * layout.parts * layout.item_floats);
    }
  }
}

}  // namespace

size_t attention_backward_scratch(const AttentionShape& shape) {
  return static_cast<size_t>(BackwardLayout(shape, omp_get_max_threads()).floats) * sizeof(float);
}

void attention_backward(const AttentionBackwardArgs& args) {
  if (args.shape.batch == 0 || args.shape.kv_heads == 0) return;
  const int threads = omp_get_max_threads();
  if (args.shape.dtype == DType::f32)
    run<float>(args, threads);
  else
    run<Bf16>(args, threads);
}

}  // namespace capstan::kernels::CAPSTAN_ISA
