#pragma once
// What a tile of scores gets beside products: ALiBi, the table by distance, the relative term, dropout. These make long
// code, so they are prepared in loops that are not unrolled, before the products, and only in instantiations of their
// own; the lane that needs a number has prepared it.

#include "kernels/cuda/attention_tile.cuh"

namespace capstan::kernels::cuda {

/// The relative term of 16 queries from i0 and 16 keys from j0. Row r and column u of `unit` hold relative_q_(i0 + r) .
/// relative_k of distance(u): that of key j0 + c is column r - c + 15.
struct RelativeUnit {
  int i0, j0, farthest;  // farthest: the distance of column 0, from query i0 to key j0 + 15

  CAPSTAN_WARP_FUNCTION RelativeUnit(const AttentionHead& head, int query, int key)
      : i0(query), j0(key), farthest(query + head.offset - key - 15) {}

  template <typename T>
  CAPSTAN_WARP_FUNCTION void fill(float* unit, const AttentionProblem& p, const AttentionHead& head, int end) const {
    float sums[4][4] = {};
    add_gathered<T, 4>(
        sums, p.head_size, [&](int r, int d) { return head.relative_query<T>(p, i0 + r, end, d); },
        [&](int u, int d) { return head.relative_key<T>(p, farthest + u, d); });
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) unit[(g + e / 2 * 8) * kUnitStride + n * 8 + 2 * t + e % 2] = sums[n][e];
    __syncwarp();
  }
  CAPSTAN_WARP_FUNCTION static float at(const float* unit, int r, int c) { return unit[r * kUnitStride + r - c + 15]; }
};

/// What biases and dropout do to the 16 by 8 N pairs of a warp. Prepared in a loop that is not unrolled (random words
/// and relative units are long code): addends go to `staging`, where the lane that wrote them reads them; dropout is a
/// bit for each number that the lane owns.
template <typename T, int N, bool QueriesAreRows>
struct TileExtras {
  static constexpr int kRow = N * 8 + 1;
  uint32_t dropped = 0;
  bool biased;
  const float* addends;

  CAPSTAN_WARP_FUNCTION TileExtras(const AttentionProblem& p, const AttentionHead& head, int row0, int column0, int end,
                                   float* staging)
      : biased(p.mask.alibi_slopes || p.bias_distances > 0 || p.relative_distances > 0) {
    static_assert(N <= 8, "a bit for each number");
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    addends = staging + g * kRow + 2 * t;
    float* unit = staging + 16 * kRow;
    __syncwarp();  // staging may still be read
#pragma unroll 1
    for (int n0 = 0; n0 < N; n0 += 2) {
      const int i0 = QueriesAreRows ? row0 : column0 + n0 * 8, j0 = QueriesAreRows ? column0 + n0 * 8 : row0;
      if (p.relative_distances > 0) RelativeUnit(head, i0, j0).template fill<T>(unit, p, head, end);
#pragma unroll 1
      for (int x = 0; x < 4; ++x) {  // two neighbours of a row
        const int n = n0 + x / 2, r = g + x % 2 * 8, c = x / 2 * 8 + 2 * t;
        if (n >= N) break;
        const int i = i0 + (QueriesAreRows ? r : c), j = j0 + (QueriesAreRows ? c : r);
        if (biased) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int query = QueriesAreRows ? r : c + e, key = QueriesAreRows ? c + e : r;
            float sum = head.template bias<T>(p, i0 + query, j0 + key);
            if (p.relative_distances > 0) sum += p.scale * RelativeUnit::at(unit, query, key);
            staging[r * kRow + n * 8 + 2 * t + e] = sum;
          }
        }
        if (p.kept > 0.0f) {
          const uint32_t two = QueriesAreRows ? dropped_of_row(p, head, i, j)
                                              : dropped_of(p, head, i, j) | dropped_of(p, head, i + 1, j) << 1;
          dropped |= two << (n * 4 + x % 2 * 2);
        }
      }
    }
  }
  CAPSTAN_WARP_FUNCTION float addend(int n, int e) const {
    return biased ? addends[e / 2 * 8 * kRow + n * 8 + e % 2] : 0.0f;
  }
  /// What dropout multiplies a weight with.
  CAPSTAN_WARP_FUNCTION float factor(const AttentionProblem& p, int n, int e) const {
    return p.kept > 0.0f ? (dropped >> (n * 4 + e) & 1u ? 0.0f : p.kept) : 1.0f;
  }
};

}  // namespace capstan::kernels::cuda
