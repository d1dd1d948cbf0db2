#pragma once
// Addends to scores that go by the distance from key to query: a table of each head, and Transformer-XL's relative
// term. Both come down to one form: a row of a tile of scores gets a run of floats that ascends with the keys, so that
// distances descend; from row to row the run begins a fixed number of floats further on. Runs may be read a vector
// beyond the keys that are seen: what lies there is masked later.

#include "kernels/cpu/vector/attention_tile.h"

namespace capstan::kernels::CAPSTAN_ISA {

/// The table as the kernels read it: for each head a row in which the distance falls by one from entry to entry, from
/// `highest` on, over all that a call can meet; entries outside the table repeat its ends.
struct DistanceRows {
  int64_t highest = 0, count = 0, stride = 0, floats = 0;

  explicit DistanceRows(const AttentionShape& s) {
    if (s.bias_distances == 0) return;
    const int64_t first = s.is_block() ? s.offset(0) : -s.queries;                 // the least place
    const int64_t last = s.is_block() ? s.offset(0) + s.queries - 1 : s.keys - 1;  // and the highest
    highest = last;
    count = last - first + s.keys;
    stride = round_up(count + kKeyBlock + kLanes, 16);
    floats = round_up(s.heads * stride, 32);
  }
  /// Entry of key j for a query at `place`.
  int64_t at(int64_t head, int64_t place, int64_t j) const { return head * stride + highest - place + j; }
};

inline int64_t within(int64_t distance, int64_t distances) {
  return smaller(distances - 1, larger<int64_t>(0, distance));
}

/// Row of one head.
template <typename T>
[[gnu::noinline]] void fill_distance_row(const AttentionShape& s, const void* table, const DistanceRows& rows,
                                         int64_t head, float* to) {
  const T* from = static_cast<const T*>(table) + head;
  float* row = to + head * rows.stride;
  for (int64_t e = 0; e < rows.stride; ++e)
    row[e] = e < rows.count ? load(from + within(rows.highest - e, s.bias_distances) * s.heads, Part{1})[0] : 0.0f;
}

/// Of all heads; to be called by all threads of a team.
inline void fill_distance_rows(const AttentionShape& s, const AttentionMask& mask, const DistanceRows& rows,
                               float* to) {
#pragma omp for schedule(static)
  for (int64_t h = 0; h < s.heads; ++h) {
    if (s.dtype == DType::f32)
      fill_distance_row<float>(s, mask.distance_bias, rows, h, to);
    else
      fill_distance_row<Bf16>(s, mask.distance_bias, rows, h, to);
  }
}

/// scores[r][j] += addends[r * step + j] for the keys that row r sees.
inline void add_by_distance(const ScoreTile& tile, const float* addends, int64_t step, float* scores) {
  for (int64_t r = 0; r < tile.rows; ++r, addends += step, scores += kScoreStride) {
    const int64_t last = tile.last(r);
    for (int64_t j = tile.first(r) / kLanes * kLanes; j < last; j += kLanes)
      store(scores + j, load(scores + j) + load(addends + j));
  }
}

/// The way back: sums[r * step + j] += dscores[r][j], which is 0 for keys that row r does not see.
inline void sum_by_distance(const ScoreTile& tile, const float* dscores, int64_t step, float* sums) {
  for (int64_t r = 0; r < tile.rows; ++r, sums += step, dscores += kScoreStride) {
    const int64_t last = tile.last(r);
    for (int64_t j = tile.first(r) / kLanes * kLanes; j < last; j += kLanes)
      store(sums + j, load(sums + j) + load(dscores + j));
  }
}

// The relative term of a tile: a product of its queries with the keys of all distances that it meets. Column t of it
// stands for distance far - t, far being that from the last query to the first key; key j of row r is then column
// rows - 1 - r + j.
constexpr int64_t kRelativeColumns = kQueryBlock + kKeyBlock;
constexpr int64_t kRelativeStride = kRelativeColumns + 32;
static_assert(kRelativeColumns % kTileColumns == 0);

struct RelativeTile {
  const ScoreTile& tile;
  int64_t columns() const { return tile.rows + tile.columns - 1; }
  int64_t distance(int64_t t) const { return tile.i0 + tile.rows - 1 + tile.segment->offset - tile.j0 - t; }
  /// Columns that `rows` rows from row r on meet.
  int64_t first(int64_t r, int64_t rows) const { return tile.rows - r - rows + tile.first(r); }
  int64_t last(int64_t r, int64_t rows) const { return tile.rows - 1 - r + tile.last(r + rows - 1); }
};

template <typename T>
const T* relative_row(const AttentionShape& s, const void* keys, int64_t head, int64_t distance) {
  return static_cast<const T*>(keys) + (within(distance, s.relative_distances) * s.heads + head) * s.head_size;
}

/// Relative keys of a head as panels, for products along their dims.
template <typename T>
[[gnu::noinline]] void pack_relative_panels(const AttentionShape& s, const void* keys, int64_t head,
                                            const RelativeTile& relative, const HeadSizes& sizes, float* out) {
  for (int64_t t = 0; t < relative.columns(); t += kTileColumns, out += sizes.size * kTileColumns) {
    for (int w = 0; w < kTileColumns; w += kLanes) {
      const T* lanes[kLanes];
      for (int l = 0; l < kLanes; ++l) lanes[l] = relative_row<T>(s, keys, head, relative.distance(t + w + l));
      interleave_rows(lanes, sizes.size, out + w, kTileColumns);
    }
  }
}

/// And as rows.
template <typename T>
[[gnu::noinline]] void pack_relative_rows(const AttentionShape& s, const void* keys, int64_t head,
                                          const RelativeTile& relative, const HeadSizes& sizes, float* out) {
  for (int64_t t = 0; t < relative.columns(); ++t)
    pack_plain(relative_row<T>(s, keys, head, relative.distance(t)), 0, 1, sizes, 1.0f, out + t * sizes.stride);
}

/// scores += the relative term; `products` is room for [rows, kRelativeStride].
inline void add_relative(const ScoreTile& tile, const HeadSizes& sizes, const float* queries, const float* panels,
                         float* products, float* scores) {
  const RelativeTile relative{tile};
  const int64_t step = sizes.size * kTileColumns;
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = smaller<int64_t>(kTileRows, tile.rows - r);
    if (tile.last(r + rows - 1) <= tile.first(r)) continue;
    const int64_t first = relative.first(r, rows) / kTileColumns * kTileColumns;
    const int64_t last = smaller(kRelativeColumns, round_up(relative.last(r, rows), kTileColumns));
    small_product<false, false>(
        rows, {sizes.size, queries + r * sizes.stride, sizes.stride, panels + first / kTileColumns * step, kTileColumns,
               step, last - first, products + r * kRelativeStride + first, kRelativeStride});
  }
  add_by_distance(tile, products + tile.rows - 1, kRelativeStride - 1, scores);
}

/// Buffers of the relative term's backward within a tile.
struct RelativeGradient {
  const float* queries;  // [rows, stride], scaled
  const float* keys;     // [columns, stride]
  float* dscores;        // [rows, kRelativeStride]
  float* dkeys;          // [columns, padded], of this tile
  float* dq;             // [rows, padded], +=
};

/// dq += d(scores) keys; dkeys = d(scores)^T queries, both by column instead of by key.
inline void differentiate_relative(const ScoreTile& tile, const HeadSizes& sizes, const float* dscores,
                                   const RelativeGradient& g) {
  const RelativeTile relative{tile};
  for (int64_t e = 0; e < tile.rows * kRelativeStride; e += kLanes) store(g.dscores + e, F{});
  for (int64_t e = 0; e < relative.columns() * sizes.padded; e += kLanes) store(g.dkeys + e, F{});
  sum_by_distance(tile, dscores, kRelativeStride - 1, g.dscores + tile.rows - 1);
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = smaller<int64_t>(kTileRows, tile.rows - r);
    if (tile.last(r + rows - 1) <= tile.first(r)) continue;
    const int64_t first = relative.first(r, rows), last = relative.last(r, rows);
    small_product<false, true>(
        rows, {last - first, g.dscores + r * kRelativeStride + first, kRelativeStride, g.keys + first * sizes.stride,
               sizes.stride, kTileColumns, sizes.padded, g.dq + r * sizes.padded, sizes.padded});
  }
  for (int64_t t = 0; t < relative.columns(); t += kTileRows)
    small_product<true, true>(smaller<int64_t>(kTileRows, relative.columns() - t),
                              {tile.rows, g.dscores + t, kRelativeStride, g.queries, sizes.stride, kTileColumns,
                               sizes.padded, g.dkeys + t * sizes.padded, sizes.padded});
}

}  // namespace capstan::kernels::CAPSTAN_ISA
