#pragma once
// What attention's forward, backward and decoding share: which keys a query sees, how operands are packed, and products
// of small tiles. By the contract's rules (ids of a sequence never decrease) the keys that a query sees are one run
// [low, high), and both ends never fall from query to query; so a mask costs two integers per row, tiles outside the
// runs are skipped, and a sequence falls into segments (documents) that are attended one by one. No number of another
// document is ever read into a sum, so not even a NaN there can leak.

#include "kernels/attention.h"
#include "kernels/cpu/vector/gemm_small.h"
#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/math.h"
#include "kernels/cpu/vector/philox_words.h"

namespace capstan::kernels::CAPSTAN_ISA {

constexpr int64_t kQueryBlock = 64, kKeyBlock = 128;  // of a tile of scores
constexpr int64_t kScoreStride = kKeyBlock + 16;      // from row to row; not a power of two: cache sets
static_assert(kKeyBlock % kTileColumns == 0);

/// Queries [q0, q1) of one sequence that see keys of [k0, k1) only, by the remaining rules of the mask.
struct Segment {
  int64_t q0 = 0, q1 = 0, k0 = 0, k1 = 0;
  int64_t offset = 0;  // place of query 0
  int64_t prefix = 0, window = 0;
  bool causal = false;

  [[gnu::always_inline]] int64_t low(int64_t i) const {
    return window > 0 ? larger(k0, smaller(k1, i + offset - window + 1)) : k0;
  }
  /// At least low(i).
  [[gnu::always_inline]] int64_t high(int64_t i) const {
    const int64_t place = i + offset;
    const int64_t end = causal ? larger(place + 1, prefix) : window > 0 ? place + window : k1;
    return larger(low(i), smaller(k1, end));
  }
};

/// The segment that begins at query q0 and ends before `end`.
inline Segment segment_from(const AttentionShape& s, const AttentionMask& mask, int64_t b, int64_t q0, int64_t end) {
  Segment seg;
  const int64_t length = mask.key_lengths ? larger<int64_t>(0, smaller<int64_t>(mask.key_lengths[b], s.keys)) : s.keys;
  seg.q0 = q0, seg.q1 = end, seg.k0 = 0, seg.k1 = length;
  seg.offset = s.offset(length);
  seg.prefix = mask.prefix_lengths ? mask.prefix_lengths[b] - s.first_key : 0;
  seg.window = s.window, seg.causal = s.causal;
  if (mask.query_documents) {
    const int32_t* queries = mask.query_documents + b * s.queries;
    const int32_t* keys = mask.key_documents + b * s.keys;
    const int32_t document = queries[q0];
    for (seg.q1 = q0 + 1; seg.q1 < end && queries[seg.q1] == document;) ++seg.q1;
    for (int64_t size = length; size > 0;) {  // the first key of the document
      const int64_t half = size / 2;
      if (keys[seg.k0 + half] < document) {
        seg.k0 += half + 1;
        size -= half + 1;
      } else {
        size = half;
      }
    }
    for (seg.k1 = seg.k0; seg.k1 < length && keys[seg.k1] == document;) ++seg.k1;
  }
  return seg;
}

/// Sizes that both directions derive from the shape.
struct HeadSizes {
  int64_t size, padded, stride, group;  // a packed row has `padded` floats, and `stride` to the next: an odd number of
                                        // cache lines, so that a column of rows does not fall into a few cache sets
  explicit HeadSizes(const AttentionShape& s)
      : size(s.head_size),
        padded(round_up(s.head_size, kLanes)),
        stride(blocks_of(s.head_size, 16) / 2 * 32 + 16),
        group(s.heads / s.kv_heads) {}
};

/// out[r * stride ...] = factor * row r, zeros behind.
template <typename T>
[[gnu::noinline]] void pack_plain(const T* x, int64_t stride, int64_t rows, const HeadSizes& head, float factor,
                                  float* out) {
  for (int64_t r = 0; r < rows; ++r, x += stride, out += head.stride) {
    int64_t d = 0;
    for (; d + kLanes <= head.size; d += kLanes) store(out + d, load(x + d) * factor);
    if (d < head.size) store(out + d, load(x + d, Part{static_cast<int>(head.size - d)}) * factor);
  }
}

/// out[panel][d][kTileColumns]: rows (keys) side by side, for products that run along d.
template <typename T>
[[gnu::noinline]] void pack_panels(const T* x, int64_t stride, int64_t rows, const HeadSizes& head, float* out) {
  for (int64_t j = 0; j < rows; j += kTileColumns, out += head.size * kTileColumns) {
    for (int w = 0; w < kTileColumns; w += kLanes) {
      const T* lanes[kLanes];
      for (int r = 0; r < kLanes; ++r) lanes[r] = x + smaller<int64_t>(j + w + r, rows - 1) * stride;
      interleave_rows(lanes, head.size, out + w, kTileColumns);
    }
  }
}

/// C[rows, columns] (=|+=) A B for rows <= kTileRows. Column block c (kTileColumns wide) of B begins at
/// b + c * block_step and its rows lie ldb apart; columns is a multiple of kLanes.
struct SmallProduct {
  int64_t depth;
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t ldb, block_step;
  int64_t columns;
  float* c;
  int64_t ldc;
};

template <int Rows, int Vectors, bool Transposed, bool Add>
[[gnu::always_inline]] inline void small_tile(const SmallProduct& p, const float* b, float* c) {
  Tile<Rows, Vectors> tile;
  tile_product<Rows, Vectors, Transposed>(tile, p.depth, p.a, p.a_stride, b, p.ldb);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      float* to = c + i * p.ldc + v * kLanes;
      store(to, Add ? load(to) + tile.acc[i][v] : tile.acc[i][v]);
    }
}

template <int Rows, bool Transposed, bool Add>
[[gnu::noinline]] void small_product_rows(const SmallProduct& p) {
  const float* b = p.b;
  float* c = p.c;
  int64_t left = p.columns;
  for (; left >= kTileColumns; left -= kTileColumns, b += p.block_step, c += kTileColumns)
    small_tile<Rows, kTileVectors, Transposed, Add>(p, b, c);
  if (left > 0) small_tile<Rows, 1, Transposed, Add>(p, b, c);
}

template <bool Transposed, bool Add>
[[gnu::always_inline]] inline void small_product(int64_t rows, const SmallProduct& p) {
  switch (rows) {
    case 1:
      return small_product_rows<1, Transposed, Add>(p);
    case 2:
      return small_product_rows<2, Transposed, Add>(p);
    case 3:
      return small_product_rows<3, Transposed, Add>(p);
    case 4:
      return small_product_rows<4, Transposed, Add>(p);
    case 5:
      return small_product_rows<smaller(5, kTileRows), Transposed, Add>(p);
    case 6:
      return small_product_rows<smaller(6, kTileRows), Transposed, Add>(p);
    case 7:
      return small_product_rows<smaller(7, kTileRows), Transposed, Add>(p);
    default:
      return small_product_rows<kTileRows, Transposed, Add>(p);
  }
}

/// A tile of scores: queries [i0, i0 + rows) by keys [j0, j0 + columns), stored with rows kScoreStride apart.
struct ScoreTile {
  const Segment* segment;
  int64_t i0, rows, j0, columns;

  /// The run of visible keys of query i0 + r, as columns of the tile.
  [[gnu::always_inline]] int64_t first(int64_t r) const {
    return smaller(columns, larger<int64_t>(0, segment->low(i0 + r) - j0));
  }
  [[gnu::always_inline]] int64_t last(int64_t r) const {
    return larger(first(r), smaller(columns, segment->high(i0 + r) - j0));
  }
  bool any() const { return rows > 0 && segment->high(i0 + rows - 1) > j0 && segment->low(i0) < j0 + columns; }
};

/// Lanes j .. j + kLanes of a row that lie in [first, last).
[[gnu::always_inline]] inline I lanes_within(int64_t j, int64_t first, int64_t last) {
  I lane;
  for (int l = 0; l < kLanes; ++l) lane[l] = l;
  const I at = lane + static_cast<int32_t>(j);
  return (at >= static_cast<int32_t>(first)) & (at < static_cast<int32_t>(last));
}

/// scores[r][column] = a row r . panel column, where some row of its group sees the column.
inline void score_product(const ScoreTile& tile, const HeadSizes& head, const float* a, const float* panels,
                          float* scores) {
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = smaller<int64_t>(kTileRows, tile.rows - r);
    const int64_t first = tile.first(r) / kTileColumns * kTileColumns;
    const int64_t last = smaller(kKeyBlock, round_up(tile.last(r + rows - 1), kTileColumns));
    if (last <= first) continue;
    const int64_t step = head.size * kTileColumns;
    small_product<false, false>(
        rows, {head.size, a + r * head.stride, head.stride, panels + first / kTileColumns * step, kTileColumns, step,
               last - first, scores + r * kScoreStride + first, kScoreStride});
  }
}

/// -slope (p - j), or -slope |p - j|, for lanes from key j on.
struct Alibi {
  float slope = 0.0f;
  bool absolute = false;
  [[gnu::always_inline]] F bias(int64_t place, int64_t j) const {
    I lane;
    for (int l = 0; l < kLanes; ++l) lane[l] = l;
    F distance = __builtin_convertvector(static_cast<int32_t>(place - j) - lane, F);
    if (absolute) distance = max(distance, -distance);
    return distance * -slope;
  }
};

/// o = factor * output.
template <typename T>
[[gnu::always_inline]] inline void store_row(const HeadSizes& head, const float* output, float factor, T* o) {
  each_vector(
      0, head.size, [=](int64_t d, auto lanes) __attribute__((always_inline)) {
        store(o + d, load(output + d, lanes) * factor, lanes);
      });
}

/// A row over these keys (output / sum, its logsumexp highest + log(sum)) into that over others, o with logsumexp
/// `total`: each is weighted by its sum of exponentials.
inline void merge_row(const HeadSizes& head, const float* output, float highest, float sum, float* o, float& total) {
  if (sum == 0.0f) return;
  const float logsumexp = highest + __builtin_logf(sum), top = larger(total, logsumexp);
  const float before = exp(splat(total - top))[0], now = exp(splat(logsumexp - top))[0];
  const float old_share = before / (before + now), new_share = now / (before + now) / sum;
  each_vector(
      0, head.size, [=](int64_t d, auto lanes) __attribute__((always_inline)) {
        store(o + d, fma(load(output + d, lanes), splat(new_share), load(o + d, lanes) * old_share), lanes);
      });
  total = top + __builtin_logf(before + now);
}

/// Dropout of one (sequence, head): words of a row of scores.
struct RowDropout {
  uint64_t key = 0, stream = 0, first_row = 0, keys = 0, first_key = 0;
  uint32_t below = 0;
  float kept = 1.0f;  // 1 / (1 - p)
  bool on = false;

  RowDropout(const Dropout& dropout, const AttentionShape& s, int64_t b, int64_t head) {
    if (dropout.probability == 0.0) return;
    on = true;
    key = *dropout.key, stream = dropout.stream;
    const uint64_t sample = dropout.sample() + static_cast<uint64_t>(b);
    first_row = s.first_dropout_row(sample, head);
    keys = s.dropout_columns(), first_key = static_cast<uint64_t>(s.first_key);
    below = dropped_below(dropout.probability);
    kept = static_cast<float>(1.0 / (1.0 - dropout.probability));
  }

  /// factors[0 .. count): 0 or 1 / (1 - p) for keys j .. j + count of query i.
  [[gnu::noinline]] void factors(int64_t i, int64_t j, int64_t count, uint32_t* buffer, float* factors) const {
    const uint64_t index = (first_row + static_cast<uint64_t>(i)) * keys + first_key + static_cast<uint64_t>(j);
    const uint32_t* words = philox_words(key, stream, index, count, buffer);
    for (int64_t l = 0; l < count; ++l) factors[l] = words[l] < below ? 0.0f : kept;
  }
};
constexpr int64_t kDropoutWords = kKeyBlock + 8 + 4 * kPhiloxStep;

}  // namespace capstan::kernels::CAPSTAN_ISA
