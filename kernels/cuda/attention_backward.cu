// The backward of attention. Scores are computed again from the logsumexp, by two kernels that share no sums: one holds
// keys and sums dk and dv over the queries of all heads that read them, one holds queries and sums dq over their keys
// (and, in blocks of their own, the gradient of relative queries). So every sum has one owner and one order. Gradients
// of what goes by distance are summed along diagonals by a third: a block takes one band of distances of one head
// through all sequences; a last kernel adds up the bands of each distance.

#include "kernels/cuda/attention_own.h"
#include "kernels/cuda/attention_tile.cuh"

namespace capstan::kernels::cuda {
namespace {

template <typename T, int D, bool Extras>
struct BackwardTiles : AttentionTiles<T, D, true> {
  using Base = AttentionTiles<T, D, true>;
  static constexpr int kRows = 16 * Base::kWarps;
  static constexpr int kOut = D < 128 ? D : 128;  // dims of dk and dv that a block sums: more do not fit into registers
  static constexpr int kRelativeOut = 64;         // and of relative gradients
  static constexpr int kWarpMemory = Extras || !Base::kHalf ? kWarpFloats<Base::kColumns, Extras> : 0;
  static constexpr size_t kSharedBytes =
      sizeof(T) * (2 * kRows * Base::kStride + 2 * Base::kStages * Base::kTileElements) +
      sizeof(float) * (Base::kStages * 2 * Base::kColumns + Base::kWarps * kWarpMemory);
  // The kernel of bands: one tile.
  static constexpr int kBand = kRows + Base::kColumns;  // distances that a band meets, and one
  static constexpr size_t kBandBytes =
      sizeof(T) * (2 * kRows * Base::kStride + 2 * Base::kTileElements) + sizeof(float) * Base::kWarps * kWarpMemory;
};

/// delta of each row: its output times the output's gradient. A warp per row.
template <typename T>
__global__ void attention_delta(const __grid_constant__ AttentionProblem p) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; row < rows;
       row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
    const int64_t head = row / p.queries;
    const int64_t at = (head / p.heads * p.queries + row % p.queries) * p.o_stride + head % p.heads * p.head_size;
    const T* o = static_cast<const T*>(p.o) + at;
    const T* d_o = static_cast<const T*>(p.d_o) + at;
    float sum = 0.0f;
    for (int d = lane; d < p.head_size; d += 32) sum = fmaf(widen(o[d]), widen(d_o[d]), sum);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) p.delta[row] = sum;
  }
}

/// From the score and d(weight) of one pair to its (dropped) weight and d(score), both 0 where the key is not seen.
/// kept: what dropout multiplies the weight with.
template <typename T>
CAPSTAN_WARP_FUNCTION void differentiate(const AttentionProblem& p, bool seen, float addend, float kept,
                                         float logsumexp, float delta, float& score, float& slope) {
  const float weight = exponential<T>(score * p.scale + addend - logsumexp);
  slope = seen ? weight * (kept * slope - delta) : 0.0f;
  score = seen ? weight * kept : 0.0f;
}

/// What a warp without biases and dropout has in the place of TileExtras.
struct NoExtras {
  CAPSTAN_WARP_FUNCTION NoExtras(const AttentionProblem&, const AttentionHead&, int, int, int, float*) {}
  CAPSTAN_WARP_FUNCTION float addend(int, int) const { return 0.0f; }
  CAPSTAN_WARP_FUNCTION float factor(const AttentionProblem&, int, int) const { return 1.0f; }
};
template <typename T, int N, bool QueriesAreRows, bool Extras>
using ExtrasOf = std::conditional_t<Extras, TileExtras<T, N, QueriesAreRows>, NoExtras>;

/// Keys of one tile and the queries that pass by.
template <typename T, int D, bool Extras>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_keys(const __grid_constant__ AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  constexpr int N = Tiles::kColumns / 8, kOut = Tiles::kOut;
  CAPSTAN_SHARED_MEMORY(memory);
  T* keys = reinterpret_cast<T*>(memory);
  T* values = keys + Tiles::kRows * Tiles::kStride;
  T* tiles = values + Tiles::kRows * Tiles::kStride;
  float* statistics = reinterpret_cast<float*>(tiles + 2 * Tiles::kStages * Tiles::kTileElements);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int g = lane / 4, t = lane % 4;
  float* staging = statistics + Tiles::kStages * 2 * Tiles::kColumns + warp * Tiles::kWarpMemory;
  const int b = static_cast<int>(blockIdx.x) / p.kv_heads, kv_head = static_cast<int>(blockIdx.x) % p.kv_heads;
  const int begin = static_cast<int>(blockIdx.y) * Tiles::kRows, end = min(p.keys, begin + Tiles::kRows);
  const int part = static_cast<int>(blockIdx.z) * kOut, dims = p.head_size - part;
  for (int k0 = begin; k0 < end;) {
    const AttentionSegment s = segment_of_keys(p, b, k0, end);
    const AttentionHead first_head(p, b, kv_head * p.group, s.offset);
    const int64_t at = first_head.key_at(p, 0);
    const int steps = (s.q1 - s.q0 + Tiles::kColumns - 1) / Tiles::kColumns, count = steps * p.group;
    const auto load = [&](int n, int stage) {
      const AttentionHead head(p, b, kv_head * p.group + n / steps, s.offset);
      const int i0 = s.q0 + n % steps * Tiles::kColumns;
      T* queries = tiles + 2 * stage * Tiles::kTileElements;
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                        p.q_stride, i0, s.q0, s.q1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(queries + Tiles::kTileElements,
                                                        static_cast<const T*>(p.d_o) + head.output_at(p, 0), p.o_stride,
                                                        i0, s.q0, s.q1, p.head_size, p.vectors);
      const int c = static_cast<int>(threadIdx.x);
      if (c < Tiles::kColumns) {
        float* to = statistics + stage * 2 * Tiles::kColumns + c;
        to[0] = i0 + c < s.q1 ? p.logsumexp[head.statistic_at(p, i0 + c)] : 0.0f;
        to[Tiles::kColumns] = i0 + c < s.q1 ? p.delta[head.row_at(p, i0 + c)] : 0.0f;
      }
    };
    if (count > 0) {
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(keys, static_cast<const T*>(p.k) + at, p.kv_stride, s.k0, s.k0,
                                                     s.k1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(values, static_cast<const T*>(p.v) + at, p.kv_stride, s.k0, s.k0,
                                                     s.k1, p.head_size, p.vectors);
      load(0, 0);
    }
    float dk[1][kOut / 8][4], dv[1][kOut / 8][4];
    clear(dk);
    clear(dv);
    const int row0 = s.k0 + warp * 16;
    int stage = 0;
    for (int n = 0; n < count; ++n) {
      copies_done();
      __syncthreads();  // this tile is there, and all are done with the one before
      if (Tiles::kStages == 2 && n + 1 < count) load(n + 1, 1 - stage);
      const T* queries = tiles + 2 * stage * Tiles::kTileElements;
      const T* gradients = queries + Tiles::kTileElements;
      const float* of_queries = statistics + stage * 2 * Tiles::kColumns;
      const int i0 = s.q0 + n % steps * Tiles::kColumns, i1 = min(s.q1, i0 + Tiles::kColumns);
      // Some key of this warp is seen by some query of the tile.
      if (row0 < s.k1 && lowest_key(p, s, i0) < row0 + 16 && highest_key(p, s, i1 - 1) > row0) {
        const AttentionHead head(p, b, kv_head * p.group + n / steps, s.offset);
        const bool full = i0 + Tiles::kColumns <= s.q1 && lowest_key(p, s, i1 - 1) <= row0 &&
                          highest_key(p, s, i0) >= min(s.k1, row0 + 16);
        const ExtrasOf<T, N, false, Extras> extras(p, head, row0, i0, s.q1, staging);
        float scores[1][N][4], slopes[1][N][4];
        clear(scores);
        clear(slopes);
        add_products<D>(scores, keys + warp * 16 * Tiles::kStride, queries, p.head_size);
        add_products<D>(slopes, values + warp * 16 * Tiles::kStride, gradients, p.head_size);
#pragma unroll
        for (int m = 0; m < N; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int c = m * 8 + 2 * t + e % 2, i = i0 + c, j = row0 + g + e / 2 * 8;
            const bool seen = full || (i < s.q1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i));
            differentiate<T>(p, seen, extras.addend(m, e), extras.factor(p, m, e), of_queries[c],
                             of_queries[Tiles::kColumns + c], scores[0][m][e], slopes[0][m][e]);
          }
        add_weighted<D, kOut>(dv, scores, gradients + part, staging, dims);
        add_weighted<D, kOut>(dk, slopes, queries + part, staging, dims);
      }
      if (Tiles::kStages == 2) {
        stage = 1 - stage;
      } else if (n + 1 < count) {
        __syncthreads();
        load(n + 1, 0);
      }
    }
    const int64_t to = at + row0 * p.kv_stride + part;
    give_rows<T>(dk[0], p.scale, p.dk, to, p.kv_stride, s.k1 - row0, dims, p.accumulate);
    give_rows<T>(dv[0], 1.0f, p.dv, to, p.kv_stride, s.k1 - row0, dims, p.accumulate);
    __syncthreads();  // shared memory is free for the next segment
    k0 = s.k1;
  }
}

/// Queries of one warp on their way through keys: scores and slopes become weights and d(scores).
template <typename T, int D, bool Extras>
struct BackwardRows {
  static constexpr int N = AttentionTiles<T, D, true>::kColumns / 8;
  float logsumexp[2], delta[2];
  int row0;

  CAPSTAN_WARP_FUNCTION BackwardRows(const AttentionProblem& p, const AttentionHead& head, int first, int end)
      : row0(first + static_cast<int>(threadIdx.x / 32) * 16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = query(half);
      logsumexp[half] = i < end ? p.logsumexp[head.statistic_at(p, i)] : 0.0f;
      delta[half] = i < end ? p.delta[head.row_at(p, i)] : 0.0f;
    }
  }
  CAPSTAN_WARP_FUNCTION int query(int half) const { return row0 + half * 8 + static_cast<int>(threadIdx.x % 32) / 4; }

  /// d(scores) of keys from j0 on; seen(i, j) says which pairs count.
  template <typename Seen>
  CAPSTAN_WARP_FUNCTION void add_tile(const AttentionProblem& p, const AttentionHead& head, int end, int j0,
                                      const T* queries, const T* gradients, const T* keys, const T* values,
                                      float* staging, Seen&& seen, float (&slopes)[1][N][4]) {
    const ExtrasOf<T, N, true, Extras> extras(p, head, row0, j0, end, staging);
    float scores[1][N][4];
    clear(scores);
    add_products<D>(scores, queries, keys, p.head_size);
    add_products<D>(slopes, gradients, values, p.head_size);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = query(e / 2), j = j0 + n * 8 + static_cast<int>(threadIdx.x % 4) * 2 + e % 2;
        differentiate<T>(p, seen(i, j), extras.addend(n, e), extras.factor(p, n, e), logsumexp[e / 2], delta[e / 2],
                         scores[0][n][e], slopes[0][n][e]);
      }
  }
};

/// d(scores) of a warp into rows N * 8 + 1 apart.
template <int N>
CAPSTAN_WARP_FUNCTION void stage_slopes(float* rows, const float (&slopes)[1][N][4]) {
  const int g = static_cast<int>(threadIdx.x % 32) / 4, t = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) rows[(g + e / 2 * 8) * (N * 8 + 1) + n * 8 + 2 * t + e % 2] = slopes[0][n][e];
}

/// sums += d(scores) of 16 queries times relative keys, for kRelativeOut dims from `part` on.
template <typename T, int N, int M>
CAPSTAN_WARP_FUNCTION void add_relative_keys(float (&sums)[M][4], const AttentionProblem& p, const AttentionHead& head,
                                             int row0, int j0, const float (&slopes)[1][N][4], float* staging,
                                             int part) {
  __syncwarp();
  stage_slopes(staging, slopes);
  __syncwarp();
#pragma unroll 1
  for (int n = 0; n < N; n += 2) {
    const RelativeUnit unit(head, row0, j0 + n * 8);
    add_gathered<T, 8>(
        sums, 32,
        [&](int r, int u) {
          const int c = r + 15 - u;
          T x;
          narrow(x, c >= 0 && c < 16 && n * 8 + c < N * 8 ? staging[r * (N * 8 + 1) + n * 8 + c] : 0.0f);
          return x;
        },
        [&](int d, int u) { return head.relative_key<T>(p, unit.farthest + u, part + d); });
  }
}

/// Queries of one tile and the keys that pass by: dq, or (blockIdx.z > 0) dims of the gradient of relative queries.
template <typename T, int D, bool Extras>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_queries(const __grid_constant__ AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  constexpr int N = Tiles::kColumns / 8;
  CAPSTAN_SHARED_MEMORY(memory);
  T* queries = reinterpret_cast<T*>(memory);
  T* gradients = queries + Tiles::kRows * Tiles::kStride;
  T* tiles = gradients + Tiles::kRows * Tiles::kStride;
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* staging =
      reinterpret_cast<float*>(tiles + 2 * Tiles::kStages * Tiles::kTileElements) + warp * Tiles::kWarpMemory;
  const int b = static_cast<int>(blockIdx.x) / p.heads, h = static_cast<int>(blockIdx.x) % p.heads;
  const int begin = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Tiles::kRows,
            end = min(p.queries, begin + Tiles::kRows);
  const int part = (static_cast<int>(blockIdx.z) - 1) * Tiles::kRelativeOut;  // negative: dq
  for (int q0 = begin; q0 < end;) {
    const AttentionSegment s = segment_of_queries(p, b, q0, end);
    const AttentionHead head(p, b, h, s.offset);
    const T* k = static_cast<const T*>(p.k) + head.key_at(p, 0);
    const T* v = static_cast<const T*>(p.v) + head.key_at(p, 0);
    const auto load = [&](int j0, int stage) {
      T* keys = tiles + 2 * stage * Tiles::kTileElements;
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys, k, p.kv_stride, j0, s.k0, s.k1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys + Tiles::kTileElements, v, p.kv_stride, j0, s.k0, s.k1,
                                                        p.head_size, p.vectors);
    };
    const int first = lowest_key(p, s, s.q0), last = highest_key(p, s, s.q1 - 1);
    load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                   p.q_stride, s.q0, s.q0, s.q1, p.head_size, p.vectors);
    load_rows<T, D, Tiles::kRows, Tiles::kThreads>(gradients, static_cast<const T*>(p.d_o) + head.output_at(p, 0),
                                                   p.o_stride, s.q0, s.q0, s.q1, p.head_size, p.vectors);
    if (first < last) load(first, 0);
    float dq[1][D / 8][4];
    clear(dq);
    BackwardRows<T, D, Extras> rows(p, head, s.q0, s.q1);
    const int row0 = rows.row0, row1 = min(s.q1, row0 + 16), own = warp * 16 * Tiles::kStride;
    int stage = 0;
    for (int j0 = first; j0 < last; j0 += Tiles::kColumns) {
      copies_done();
      __syncthreads();  // this tile is there, and all are done with the one before
      const bool more = j0 + Tiles::kColumns < last;
      if (Tiles::kStages == 2 && more) load(j0 + Tiles::kColumns, 1 - stage);
      const T* keys = tiles + 2 * stage * Tiles::kTileElements;
      if (row0 < s.q1 && highest_key(p, s, row1 - 1) > j0 && lowest_key(p, s, row0) < j0 + Tiles::kColumns) {
        const bool full = lowest_key(p, s, row1 - 1) <= j0 && highest_key(p, s, row0) >= j0 + Tiles::kColumns;
        float slopes[1][N][4];
        clear(slopes);
        rows.add_tile(
            p, head, s.q1, j0, queries + own, gradients + own, keys, keys + Tiles::kTileElements, staging,
            [&](int i, int j) { return full || (i < s.q1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i)); },
            slopes);
        if constexpr (Extras) {
          if (part >= 0) add_relative_keys<T>(dq[0], p, head, row0, j0, slopes, staging, part);
        }
        if (part < 0) add_weighted<D, D>(dq, slopes, keys, staging, p.head_size);
      }
      if (Tiles::kStages == 2) {
        stage = 1 - stage;
      } else if (more) {
        __syncthreads();
        load(j0 + Tiles::kColumns, 0);
      }
    }
    if (part < 0) {
      give_rows<T>(dq[0], p.scale, p.dq, head.query_at(p, row0), p.q_stride, s.q1 - row0, p.head_size, p.accumulate);
    } else {
      give_rows<T>(dq[0], p.scale, p.d_relative_q, head.query_at(p, row0) + part, p.q_stride, s.q1 - row0,
                   min(Tiles::kRelativeOut, p.head_size - part), p.accumulate);
    }
    copies_done();
    __syncthreads();  // shared memory is free for the next segment
    q0 = s.q1;
  }
}

/// Bands of distances: band m holds, for its tiles' first query, distances lowest + m * columns and the next columns
/// - 1.
struct DistanceBands {
  int lowest, highest, columns, width, count;  // width: entries of a band, one for each distance that its tiles meet
  float *table, *relative;                     // [heads, count, width], and [.., head_size]

  DistanceBands(const AttentionShape& s, int tile_columns, int band, float* scratch)
      : lowest(static_cast<int>(s.is_block() ? s.offset(0) - s.keys + 1 : 1 - s.queries)),
        highest(static_cast<int>(s.is_block() ? s.offset(0) + s.queries - 1 : s.keys - 1)),
        columns(tile_columns),
        width(band),
        count((highest - lowest) / tile_columns + 1),
        table(scratch),
        relative(scratch + (s.bias_distances > 0 ? s.heads * count * width : 0)) {}
};

/// One band of one head, through all sequences in order. blockIdx.z: which dims of relative keys.
template <typename T, int D>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_bands(const __grid_constant__ AttentionProblem p, DistanceBands bands) {
  using Tiles = BackwardTiles<T, D, true>;
  constexpr int N = Tiles::kColumns / 8, C = Tiles::kColumns, kOut = Tiles::kRelativeOut;
  constexpr int kGroups = (Tiles::kBand + 16 * Tiles::kWarps - 1) / (16 * Tiles::kWarps);  // of 16 distances, per warp
  static_assert(Tiles::kBand <= Tiles::kThreads);
  CAPSTAN_SHARED_MEMORY(memory);
  T* queries = reinterpret_cast<T*>(memory);
  T* gradients = queries + Tiles::kRows * Tiles::kStride;
  T* keys = gradients + Tiles::kRows * Tiles::kStride;
  T* values = keys + Tiles::kTileElements;
  float* memory_of_warps = reinterpret_cast<float*>(values + Tiles::kTileElements);
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* staging = memory_of_warps + warp * Tiles::kWarpMemory;
  // d(score) of row r and column c of the tile, in the staging of the warp whose row it is.
  const auto slope = [&](int r, int c) { return memory_of_warps[r / 16 * Tiles::kWarpMemory + r % 16 * (C + 1) + c]; };
  const int h = static_cast<int>(blockIdx.x), part = static_cast<int>(blockIdx.z) * kOut;
  const int nearest = bands.lowest + static_cast<int>(blockIdx.y) * C;  // distance of column 0 of the band
  const bool none =
      (p.window > 0 && nearest >= p.window) || (p.causal && !p.mask.prefix_lengths && nearest + Tiles::kBand <= 1);
  float table = 0.0f, relative[kGroups][kOut / 8][4];
  clear(relative);
  for (int b = 0; b < p.batch && !none; ++b) {
    const AttentionSegment s = whole_of(p, b);
    const AttentionHead head(p, b, h, s.offset);
    const int32_t* query_documents = p.mask.query_documents + static_cast<int64_t>(b) * p.queries;
    const int32_t* key_documents = p.mask.key_documents + static_cast<int64_t>(b) * p.keys;
    for (int i0 = 0; i0 < p.queries; i0 += Tiles::kRows) {
      const int j0 = i0 + s.offset - (C - 1) - nearest, i1 = min(p.queries, i0 + Tiles::kRows);
      const int k0 = max(0, j0), k1 = min(s.k1, j0 + C);
      if (k1 <= k0 || highest_key(p, s, i1 - 1) <= k0 || lowest_key(p, s, i0) >= k1) continue;
      if (p.mask.query_documents &&
          (query_documents[i1 - 1] < key_documents[k0] || query_documents[i0] > key_documents[k1 - 1]))
        continue;
      __syncthreads();  // all are done with the tile before
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                     p.q_stride, i0, i0, i1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(gradients, static_cast<const T*>(p.d_o) + head.output_at(p, 0),
                                                     p.o_stride, i0, i0, i1, p.head_size, p.vectors);
      load_rows<T, D, C, Tiles::kThreads>(keys, static_cast<const T*>(p.k) + head.key_at(p, 0), p.kv_stride, j0, k0, k1,
                                          p.head_size, p.vectors);
      load_rows<T, D, C, Tiles::kThreads>(values, static_cast<const T*>(p.v) + head.key_at(p, 0), p.kv_stride, j0, k0,
                                          k1, p.head_size, p.vectors);
      copies_done();
      __syncthreads();
      BackwardRows<T, D, true> rows(p, head, i0, i1);
      const int own = warp * 16 * Tiles::kStride;
      float slopes[1][N][4];
      clear(slopes);
      rows.add_tile(
          p, head, i1, j0, queries + own, gradients + own, keys, values, staging,
          [&](int i, int j) {
            return i < i1 && j >= k0 && j < k1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i) &&
                   (!p.mask.query_documents || query_documents[i] == key_documents[j]);
          },
          slopes);
      __syncwarp();
      stage_slopes(staging, slopes);
      __syncthreads();
      const int u = static_cast<int>(threadIdx.x);
      for (int r = max(0, u - (C - 1)); p.bias_distances > 0 && r < min(Tiles::kRows, u + 1); ++r)
        table += slope(r, r + C - 1 - u);
      if (p.relative_distances == 0) continue;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int u0 = (warp * kGroups + group) * 16;
        add_gathered<T, kOut / 8>(
            relative[group], Tiles::kRows,
            [&](int row, int r) {
              const int c = r + C - 1 - u0 - row;
              T x;
              narrow(x, c >= 0 && c < C ? slope(r, c) : 0.0f);
              return x;
            },
            [&](int d, int r) { return head.relative_query<T>(p, i0 + r, i1, part + d); });
      }
    }
  }
  const int64_t at = (static_cast<int64_t>(h) * bands.count + blockIdx.y) * bands.width;
  if (p.bias_distances > 0 && part == 0 && static_cast<int>(threadIdx.x) < bands.width)
    bands.table[at + threadIdx.x] = table;
  if (p.relative_distances == 0) return;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int u0 = (warp * kGroups + group) * 16;
    give_rows<float>(relative[group], 1.0f, bands.relative, (at + u0) * p.head_size + part, p.head_size,
                     bands.width - u0, p.head_size - part, false);
  }
}

/// Element (d, h, e) of a gradient by distance from the bands: `size` elements to a distance of a head.
template <typename T>
__global__ void attention_add_bands(DistanceBands bands, const float* from, int distances, int heads, int size,
                                    float scale, void* to, bool accumulate) {
  const int64_t count = static_cast<int64_t>(distances) * heads * size;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count;
       n += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int e = static_cast<int>(n % size), h = static_cast<int>(n / size % heads);
    const int d = static_cast<int>(n / size / heads);
    // The ends of the table stand for all distances beyond them.
    const int first = d == 0 ? bands.lowest - bands.width : d,
              last = d == distances - 1 ? bands.highest + bands.width : d;
    const int m0 = max(0, (first - bands.width - bands.lowest) / bands.columns);
    const int m1 = min(bands.count - 1, (last - bands.lowest) / bands.columns);
    float sum = 0.0f;
    for (int m = m0; m <= m1; ++m) {
      const int nearest = bands.lowest + m * bands.columns;
      const int u1 = min(bands.width - 1, last - nearest);
      for (int u = max(0, first - nearest); u <= u1; ++u)
        sum += from[((static_cast<int64_t>(h) * bands.count + m) * bands.width + u) * size + e];
    }
    if (accumulate)
      static_cast<float*>(to)[n] += sum * scale;
    else
      narrow(static_cast<T*>(to)[n], sum * scale);
  }
}

struct Scratch {
  int64_t delta, bands, floats;
  Scratch(const AttentionShape& s, const DistanceBands& layout) {
    const auto rounded = [](int64_t n) { return (n + 31) / 32 * 32; };
    delta = 0, bands = rounded(s.batch * s.heads * s.queries);
    const int64_t entries = s.heads * layout.count * layout.width;
    floats = bands;
    if (s.bias_distances > 0) floats += entries;
    if (s.relative_distances > 0) floats += entries * s.head_size;
  }
};

/// The kernel of bands is built for heads up to 128 and up to 256 only.
template <int D>
constexpr int kBandDims = D > 128 ? 256 : 128;

template <typename T, int D>
void add_distances(const AttentionBackwardArgs& args, const AttentionProblem& p, const DistanceBands& bands) {
  using Tiles = BackwardTiles<T, D, true>;
  const int parts = p.relative_distances > 0 ? (p.head_size + Tiles::kRelativeOut - 1) / Tiles::kRelativeOut : 1;
  launch(attention_backward_bands<T, D>,
         dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(bands.count), static_cast<unsigned>(parts)),
         dim3(Tiles::kThreads), Tiles::kBandBytes, args.stream, p, bands);
  const auto add = [&](int distances, int size, float scale, const float* from, void* to) {
    if (distances == 0) return;
    launch(attention_add_bands<T>, dim3(blocks_for(static_cast<int64_t>(distances) * p.heads * size, 128)), dim3(128),
           0, args.stream, bands, from, distances, p.heads, size, scale, to, p.accumulate);
  };
  add(p.bias_distances, 1, 1.0f, bands.table, args.d_distance_bias);
  add(p.relative_distances, p.head_size, p.scale, bands.relative, args.d_relative_k);
}

template <typename T, int D, bool Extras>
void backward(const AttentionBackwardArgs& args, AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  const auto tiles = [](int n) { return static_cast<unsigned>((n + Tiles::kRows - 1) / Tiles::kRows); };
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
  launch(attention_delta<T>, dim3(blocks_for(rows, 4)), dim3(128), 0, args.stream, p);
  const dim3 keys(static_cast<unsigned>(p.batch * p.kv_heads), tiles(p.keys),
                  static_cast<unsigned>((p.head_size + Tiles::kOut - 1) / Tiles::kOut));
  launch(attention_backward_keys<T, D, Extras>, keys, dim3(Tiles::kThreads), Tiles::kSharedBytes, args.stream, p);
  const int relative = p.relative_distances > 0 ? (p.head_size + Tiles::kRelativeOut - 1) / Tiles::kRelativeOut : 0;
  const dim3 queries(static_cast<unsigned>(p.batch * p.heads), tiles(p.queries), static_cast<unsigned>(1 + relative));
  launch(attention_backward_queries<T, D, Extras>, queries, dim3(Tiles::kThreads), Tiles::kSharedBytes, args.stream, p);
}

}  // namespace

size_t attention_own_backward_scratch(const AttentionShape& shape) {
  size_t bytes = 0;
  AttentionProblem p{};
  p.head_size = static_cast<int>(shape.head_size), p.kept = 1.0f;
  with_attention_kind(shape.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    using Tiles = BackwardTiles<T, kBandDims<D>, true>;
    const DistanceBands bands(shape, Tiles::kColumns, Tiles::kBand, nullptr);
    bytes = static_cast<size_t>(Scratch(shape, bands).floats) * sizeof(float);
  });
  return bytes;
}

void attention_own_backward(const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  AttentionProblem p = attention_problem(args);
  // The backward reads these only: none of them is written through.
  p.o = const_cast<void*>(args.o), p.logsumexp = static_cast<float*>(const_cast<void*>(args.logsumexp));
  p.d_o = args.d_o, p.dq = args.dq, p.dk = args.dk, p.dv = args.dv, p.d_relative_q = args.d_relative_q;
  p.accumulate = args.accumulate;
  p.vectors = p.vectors && rows_are_vectors(args.d_o, s.o_stride, s.head_size, bytes_of(s.dtype));
  float* scratch = static_cast<float*>(args.scratch);
  p.delta = scratch;
  with_attention_kind(s.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    backward<T, D, Extras>(args, p);
    if constexpr (Extras) {
      using Tiles = BackwardTiles<T, kBandDims<D>, true>;
      const Scratch layout(s, DistanceBands(s, Tiles::kColumns, Tiles::kBand, nullptr));
      if (s.bias_distances > 0 || s.relative_distances > 0)
        add_distances<T, kBandDims<D>>(args, p,
                                       DistanceBands(s, Tiles::kColumns, Tiles::kBand, scratch + layout.bands));
    }
  });
}

}  // namespace capstan::kernels::cuda
