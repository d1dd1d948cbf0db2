#include <omp.h>

#include "kernels/cpu/vector/attention_decode.h"
#include "kernels/cpu/vector/attention_distance.h"
#include "kernels/cpu/vector/attention_table.h"
#include "kernels/cpu/vector/attention_tile.h"
#include "kernels/cpu/vector/math.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

/// How the queries are cut into units of work, and where a thread's buffers lie. A unit is a run of queries of one
/// sequence, for all heads that read one key/value head: what is packed of the keys serves all of them.
struct Layout {
  HeadSizes head;
  DistanceRows distances;
  int64_t unit_queries, units_per_sequence, units;
  int64_t panels = 0, values, queries, outputs, statistics, scores, words, factors;
  int64_t relative_queries, relative_panels, relative;  // only where there is a relative term
  int64_t floats;                                       // of a thread
  int64_t distance_rows, all_floats;                    // shared by the threads

  Layout(const AttentionShape& s, int threads) : head(s), distances(s) {
    const int64_t blocks = blocks_of(s.queries, kQueryBlock);
    int64_t unit_blocks = larger<int64_t>(1, 4 / head.group);
    while (unit_blocks > 1 && s.batch * s.kv_heads * blocks_of(blocks, unit_blocks) < 4 * threads) unit_blocks /= 2;
    unit_queries = unit_blocks * kQueryBlock;
    units_per_sequence = blocks_of(s.queries, unit_queries);
    units = s.batch * s.kv_heads * units_per_sequence;
    const int64_t rows = head.group * unit_queries;
    values = panels + kKeyBlock * head.size;
    queries = values + kKeyBlock * head.stride;
    outputs = queries + rows * head.stride;
    statistics = outputs + rows * head.padded;
    scores = statistics + 2 * rows;
    words = scores + kQueryBlock * kScoreStride;
    factors = words + kDropoutWords;
    relative_queries = round_up(factors + kKeyBlock + kLanes, 16);
    const int64_t some = s.relative_distances > 0 ? 1 : 0;
    relative_panels = relative_queries + some * rows * head.stride;
    relative = relative_panels + some * kRelativeColumns * head.size;
    floats = round_up(relative + some * kQueryBlock * kRelativeStride, 32);
    distance_rows = threads * floats;
    all_floats = distance_rows + distances.floats;
  }
};

/// Running maximum and sum of the rows of one block, and their outputs so far.
struct RowState {
  float* highest;
  float* sum;
  float* output;  // [rows, padded]
};

/// Turns the scores of row r into weights relative to the running maximum; the outputs so far are rescaled.
[[gnu::always_inline]] inline void soften_row(const ScoreTile& tile, int64_t r, int64_t begin, int64_t end,
                                              const Alibi& alibi, const HeadSizes& head, const RowState& state,
                                              float* scores) {
  const int64_t first = tile.first(r), last = tile.last(r);
  const int64_t place = tile.i0 + r + tile.segment->offset;
  float* row = scores + r * kScoreStride;
  const F none = splat(-__builtin_inff());
  F top = none;
  for (int64_t j = begin; j < end; j += kLanes) {
    F s = load(row + j);
    if (alibi.slope != 0.0f) s += alibi.bias(place, tile.j0 + j);
    if (j < first || j + kLanes > last) s = lanes_within(j, first, last) ? s : none;
    store(row + j, s);
    top = max(s, top);
  }
  const float before = state.highest[r];
  const float tile_top = max_lanes(top);
  const float now = tile_top > before ? tile_top : before;
  const F base = splat(now == -__builtin_inff() ? 0.0f : now);
  F total{};
  for (int64_t j = begin; j < end; j += kLanes) {
    const F weight = exp(load(row + j) - base);
    store(row + j, weight);
    total += weight;
  }
  if (now != before) {
    const F shrink = exp(splat(before) - base);
    state.highest[r] = now;
    state.sum[r] *= shrink[0];
    float* output = state.output + r * head.padded;
    for (int64_t d = 0; d < head.padded; d += kLanes) store(output + d, load(output + d) * shrink);
  }
  state.sum[r] += sum_lanes(total);
}

/// What is added to the scores of one head.
struct PositionBias {
  Alibi alibi;
  const float* distance_row = nullptr;      // of the head
  const float* relative_queries = nullptr;  // of the tile
};

/// One tile of one head: scores, weights, outputs += weights values. Rows are taken kTileRows at a time and only over
/// the keys that one of them sees.
void attend_tile(const ScoreTile& tile, const Layout& layout, const PositionBias& bias, const RowDropout& dropout,
                 const RowState& state, float* base, const float* queries) {
  const HeadSizes& head = layout.head;
  float* scores = base + layout.scores;
  float* factors = base + layout.factors;
  const Alibi& alibi = bias.alibi;
  score_product(tile, head, queries, base + layout.panels, scores);
  if (bias.distance_row)
    add_by_distance(tile, bias.distance_row + layout.distances.at(0, tile.i0 + tile.segment->offset, tile.j0), -1,
                    scores);
  if (bias.relative_queries)
    add_relative(tile, head, bias.relative_queries, base + layout.relative_panels, base + layout.relative, scores);
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = smaller<int64_t>(kTileRows, tile.rows - r);
    const int64_t first = tile.first(r), last = tile.last(r + rows - 1);
    if (last <= first) continue;
    const int64_t begin = first / kLanes * kLanes, end = round_up(last, kLanes);
    for (int64_t i = r; i < r + rows; ++i) {
      soften_row(tile, i, begin, end, alibi, head, state, scores);
      if (!dropout.on) continue;
      dropout.factors(tile.i0 + i, tile.j0 + first, last - first, reinterpret_cast<uint32_t*>(base + layout.words),
                      factors);
      for (int64_t j = first; j < last; ++j) scores[i * kScoreStride + j] *= factors[j - first];
    }
    small_product<false, true>(rows, {last - first, scores + r * kScoreStride + first, kScoreStride,
                                      base + layout.values + first * head.stride, head.stride, kTileColumns,
                                      head.padded, state.output + r * head.padded, head.padded});
  }
}

template <typename T>
void finish_rows(const AttentionArgs& args, const HeadSizes& head, int64_t b, int64_t h, const Segment& seg,
                 const RowState& state) {
  const AttentionShape& s = args.shape;
  for (int64_t i = seg.q0; i < seg.q1; ++i) {
    const int64_t r = i - seg.q0;
    const float sum = state.sum[r], *output = state.output + r * head.padded;
    const int64_t at = (b * s.queries + i) * s.o_stride + h * s.head_size;
    float* logsumexp = args.logsumexp ? static_cast<float*>(args.logsumexp) + s.statistic(b, h) + i : nullptr;
    if (args.merge) {
      merge_row(head, output, state.highest[r], sum, static_cast<float*>(args.o) + at, *logsumexp);
      continue;
    }
    store_row(head, output, sum == 0.0f ? 0.0f : 1.0f / sum, static_cast<T*>(args.o) + at);
    if (logsumexp) *logsumexp = state.highest[r] + __builtin_logf(sum);
  }
}

/// Queries of one segment within a unit, all heads of the group.
template <typename T>
void attend_segment(const AttentionArgs& args, const Layout& layout, int64_t b, int64_t kv_head, const Segment& seg,
                    float* base) {
  const AttentionShape& s = args.shape;
  const HeadSizes& head = layout.head;
  const int64_t rows = seg.q1 - seg.q0;
  const auto state_of = [&](int64_t g, int64_t i) -> RowState {
    const int64_t row = g * layout.unit_queries + i;
    return {base + layout.statistics + 2 * g * layout.unit_queries + i,
            base + layout.statistics + (2 * g + 1) * layout.unit_queries + i,
            base + layout.outputs + row * head.padded};
  };
  for (int64_t g = 0; g < head.group; ++g) {
    const RowState state = state_of(g, 0);
    for (int64_t i = 0; i < rows; ++i) state.highest[i] = -__builtin_inff(), state.sum[i] = 0.0f;
    for (int64_t e = 0; e < rows * head.padded; e += kLanes) store(state.output + e, F{});
    pack_plain(
        static_cast<const T*>(args.q) + (b * s.queries + seg.q0) * s.q_stride + (kv_head * head.group + g) * head.size,
        s.q_stride, rows, head, static_cast<float>(s.scale),
        base + layout.queries + g * layout.unit_queries * head.stride);
    if (s.relative_distances > 0)
      pack_plain(static_cast<const T*>(args.mask.relative_q) + (b * s.queries + seg.q0) * s.q_stride +
                     (kv_head * head.group + g) * head.size,
                 s.q_stride, rows, head, static_cast<float>(s.scale),
                 base + layout.relative_queries + g * layout.unit_queries * head.stride);
  }
  const int64_t begin = seg.k0 + (seg.low(seg.q0) - seg.k0) / kKeyBlock * kKeyBlock, end = seg.high(seg.q1 - 1);
  for (int64_t j = begin; j < end; j += kKeyBlock) {
    const int64_t keys = smaller(kKeyBlock, seg.k1 - j);
    const int64_t at = (b * s.keys + j) * s.kv_stride + kv_head * head.size;
    pack_panels(static_cast<const T*>(args.k) + at, s.kv_stride, keys, head, base + layout.panels);
    pack_plain(static_cast<const T*>(args.v) + at, s.kv_stride, keys, head, 1.0f, base + layout.values);
    for (int64_t g = 0; g < head.group; ++g) {
      const int64_t h = kv_head * head.group + g;
      PositionBias bias{{args.mask.alibi_slopes ? args.mask.alibi_slopes[h] : 0.0f, !s.causal}};
      if (s.bias_distances > 0)
        bias.distance_row =
            static_cast<const float*>(args.scratch) + layout.distance_rows + h * layout.distances.stride;
      const RowDropout dropout(args.dropout, s, b, h);
      for (int64_t i = 0; i < rows; i += kQueryBlock) {
        const ScoreTile tile{&seg, seg.q0 + i, smaller(kQueryBlock, rows - i), j, keys};
        if (!tile.any()) continue;
        const int64_t row = (g * layout.unit_queries + i) * head.stride;
        if (s.relative_distances > 0) {
          pack_relative_panels<T>(s, args.mask.relative_k, h, {tile}, head, base + layout.relative_panels);
          bias.relative_queries = base + layout.relative_queries + row;
        }
        attend_tile(tile, layout, bias, dropout, state_of(g, i), base, base + layout.queries + row);
      }
    }
  }
  for (int64_t g = 0; g < head.group; ++g) finish_rows<T>(args, head, b, kv_head * head.group + g, seg, state_of(g, 0));
}

template <typename T>
void attend_unit(const AttentionArgs& args, const Layout& layout, int64_t unit, float* base) {
  const AttentionShape& s = args.shape;
  // Long units (late queries of a causal mask) first.
  const int64_t block = layout.units_per_sequence - 1 - unit / (s.batch * s.kv_heads);
  const int64_t b = unit % (s.batch * s.kv_heads) / s.kv_heads, kv_head = unit % s.kv_heads;
  const int64_t end = smaller(s.queries, (block + 1) * layout.unit_queries);
  for (int64_t i = block * layout.unit_queries; i < end;) {
    const Segment seg = segment_from(s, args.mask, b, i, end);
    attend_segment<T>(args, layout, b, kv_head, seg, base);
    i = seg.q1;
  }
}

}  // namespace

size_t attention_scratch(const AttentionShape& shape) {
  const int threads = omp_get_max_threads();
  const size_t blocked = static_cast<size_t>(Layout(shape, threads).all_floats) * sizeof(float);
  return is_decoding(shape) ? larger(blocked, decode_scratch(shape, threads)) : blocked;
}

void attention(const AttentionArgs& args) {
  const int threads = omp_get_max_threads();
  if (is_decoding(args.shape) && args.dropout.probability == 0.0) return decode(args, threads);
  const Layout layout(args.shape, threads);
  if (layout.units == 0) return;
#pragma omp parallel num_threads(threads)
  {
    float* base = static_cast<float*>(args.scratch) + omp_get_thread_num() * layout.floats;
    if (args.shape.bias_distances > 0)
      fill_distance_rows(args.shape, args.mask, layout.distances,
                         static_cast<float*>(args.scratch) + layout.distance_rows);
      // A unit's result does not depend on who computes it, so whoever is free takes the next.
#pragma omp for schedule(dynamic, 1)
    for (int64_t unit = 0; unit < layout.units; ++unit) {
      if (args.shape.dtype == DType::f32)
        attend_unit<float>(args, layout, unit, base);
      else
        attend_unit<Bf16>(args, layout, unit, base);
    }
  }
}

}  // namespace capstan::kernels::CAPSTAN_ISA
