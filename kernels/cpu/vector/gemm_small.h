#pragma once
// The register-blocked inner products that the packed matrix product and attention share, and the transposition with
// which both bring operands into the order in which they are read. A tile of C is held in registers over all of k; its
// left side is broadcast element by element, its right side read as vectors.

#include "kernels/cpu/vector/simd.h"

namespace capstan::kernels::CAPSTAN_ISA {

#if defined(__AVX512F__)
constexpr int kTileRows = 8;    // of a tile whose left side is read by rows: one address register each
constexpr int kPanelRows = 14;  // of a tile whose left side is packed
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kPanelRows = 6;
#else
constexpr int kTileRows = 4;
constexpr int kPanelRows = 4;
#endif
constexpr int kTileVectors = 2;
constexpr int kTileColumns = kTileVectors * kLanes;

template <typename T>
[[gnu::always_inline]] constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
[[gnu::always_inline]] constexpr T larger(T a, T b) {
  return a < b ? b : a;
}
[[gnu::always_inline]] inline int64_t blocks_of(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }
[[gnu::always_inline]] inline int64_t round_up(int64_t x, int64_t unit) { return blocks_of(x, unit) * unit; }

using Quad = float __attribute__((vector_size(16)));
using IntQuad = int32_t __attribute__((vector_size(16)));

[[gnu::always_inline]] inline Quad load_quad(const float* p) {
  Quad q;
  __builtin_memcpy(&q, p, sizeof q);
  return q;
}
[[gnu::always_inline]] inline Quad load_quad(const Bf16* p) {
  return (Quad)((IntQuad)_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))) << 16);
}

/// out[k * out_stride + r] = rows[r][k], r < kLanes, k < depth. Rows may repeat (padding). Each store writes kLanes
/// floats, in ascending k, so a smaller out_stride leaves the first out_stride rows, interleaved without gaps; the
/// last store then runs past the end.
template <typename T>
[[gnu::always_inline]] inline void interleave_rows(const T* const* rows, int64_t depth, float* out,
                                                   int64_t out_stride) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    F v[4];
    for (int r = 0; r < 4; ++r) {
#if defined(__AVX512F__)
      const Quad q0 = load_quad(rows[r] + k), q1 = load_quad(rows[r + 4] + k);
      const Quad q2 = load_quad(rows[r + 8] + k), q3 = load_quad(rows[r + 12] + k);
      const auto low = __builtin_shufflevector(q0, q1, 0, 1, 2, 3, 4, 5, 6, 7);
      const auto high = __builtin_shufflevector(q2, q3, 0, 1, 2, 3, 4, 5, 6, 7);
      v[r] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
      v[r] = __builtin_shufflevector(load_quad(rows[r] + k), load_quad(rows[r + 4] + k), 0, 1, 2, 3, 4, 5, 6, 7);
#else
      v[r] = load_quad(rows[r] + k);
#endif
    }
    // A 4 x 4 transposition within each group of four lanes.
#if defined(__AVX512F__)
    const I low2 = {0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29};
    const I high2 = {2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31};
    const I low4 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
    const I high4 = {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31};
#elif defined(__AVX2__)
    const I low2 = {0, 8, 1, 9, 4, 12, 5, 13}, high2 = {2, 10, 3, 11, 6, 14, 7, 15};
    const I low4 = {0, 1, 8, 9, 4, 5, 12, 13}, high4 = {2, 3, 10, 11, 6, 7, 14, 15};
#else
    const I low2 = {0, 4, 1, 5}, high2 = {2, 6, 3, 7}, low4 = {0, 1, 4, 5}, high4 = {2, 3, 6, 7};
#endif
    const F a = __builtin_shuffle(v[0], v[1], low2), b = __builtin_shuffle(v[0], v[1], high2);
    const F c = __builtin_shuffle(v[2], v[3], low2), d = __builtin_shuffle(v[2], v[3], high2);
    store(out, __builtin_shuffle(a, c, low4));
    store(out + out_stride, __builtin_shuffle(a, c, high4));
    store(out + 2 * out_stride, __builtin_shuffle(b, d, low4));
    store(out + 3 * out_stride, __builtin_shuffle(b, d, high4));
    out += 4 * out_stride;
  }
  for (; k < depth; ++k, out += out_stride)
    for (int r = 0; r < kLanes; ++r) out[r] = to_float(rows[r][k]);
}

/// acc[i][v] = sum over k of a(i, k) b[k * ldb + v * kLanes ...], ascending.
template <int Rows, int Vectors>
struct Tile {
  F acc[Rows][Vectors];
};

/// a(i, k) = a[i * stride + k], or with Transposed a[k * stride + i].
template <int Rows, int Vectors, bool Transposed>
[[gnu::always_inline]] inline void tile_product(Tile<Rows, Vectors>& tile, int64_t depth, const float* a,
                                                int64_t stride, const float* b, int64_t ldb) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) tile.acc[i][v] = F{};
  for (int64_t k = 0; k < depth; ++k, b += ldb) {
    F right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const F left = splat(Transposed ? a[k * stride + i] : a[i * stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) tile.acc[i][v] = fma(left, right[v], tile.acc[i][v]);
    }
  }
}

}  // namespace capstan::kernels::CAPSTAN_ISA
