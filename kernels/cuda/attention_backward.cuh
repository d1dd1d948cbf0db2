#pragma once
// What the kernels of attention's backward share: sizes, and d(scores) of one warp from scores, their logsumexp and
// delta (each row's output times its gradient).

#include "kernels/cuda/attention_extras.cuh"
#include "kernels/cuda/attention_kind.cuh"

namespace capstan::kernels::cuda {

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

/// What a backward of `shape` needs for gradients by distance, in floats.
int64_t distance_scratch(const AttentionShape& shape);
/// Gradients of the table by distance and of relative keys, after delta is there.
void add_distances(const AttentionBackwardArgs& args, const AttentionProblem& p, float* scratch);

}  // namespace capstan::kernels::cuda
