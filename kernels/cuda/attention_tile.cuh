#pragma once
// Tiles of attention and their products. A block holds kRows rows of one side in shared memory (queries in the forward
// and for dq, keys for dk and dv) and lets tiles of kColumns rows of the other side pass by, in as many buffers as fit;
// each warp owns 16 R rows. Scores and weights stay in registers, laid out as mma.cuh says: that of rows r * 16 + g and
// + 8, columns n * 8 + 2t and + 1 is x[r][n][..]. 16-bit elements go through tensor cores; f32 through FMAs with the
// same ownership of numbers, its weights by way of shared memory. Dims beyond the head are zeros up to a multiple of
// 32, and groups of 32 dims beyond that are skipped.

#include "kernels/cuda/attention_problem.cuh"

namespace capstan::kernels::cuda {

constexpr int kDimsAtOnce = 32;

/// All sizes fit into 99 KiB of shared memory: what every GPU from sm_80 on gives a block.
template <typename T, int D, bool Backward>
struct AttentionTiles {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kWarps = !kHalf && D == 256 ? 2 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStride = D + 16 / static_cast<int>(sizeof(T));  // odd multiples of 16 bytes: no bank conflicts
  static constexpr int kColumns = kHalf ? (D == 64    ? 64
                                           : D == 128 ? 32
                                           : Backward ? 16
                                                      : 32)
                                        : (D == 64    ? 32
                                           : D == 128 ? 16
                                           : Backward ? 8
                                                      : 16);
  static constexpr int kStages = D == 64 || (D == 128 && (kHalf || !Backward)) ? 2 : 1;
  static constexpr int kTileElements = kColumns * kStride;
};

/// Shared memory of one warp, for what is not in tiles: a unit of the relative term, and rows of `staging`, Columns + 1
/// apart, for what is added to scores and, in f32, for weights.
constexpr int kUnitStride = 33;
template <int Columns, bool Extras>
constexpr int kWarpFloats = 16 * (Columns + 1) + (Extras ? 16 * kUnitStride : 0);

/// Rows row0 .. row0 + Rows of `from` into a tile; zeros for rows outside [first, last), which are not read.
template <typename T, int D, int Rows, int Threads>
CAPSTAN_WARP_FUNCTION void load_rows(T* tile, const T* from, int64_t stride, int row0, int first, int last, int dims,
                                     bool vectors) {
  constexpr int kStride = AttentionTiles<T, D, false>::kStride;
  constexpr int kChunk = 16 / static_cast<int>(sizeof(T)), kChunks = D / kChunk;
  const int used = (dims + kDimsAtOnce - 1) / kDimsAtOnce * kDimsAtOnce;
#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < Rows * kChunks; n += Threads) {
    const int r = n / kChunks, d = n % kChunks * kChunk, row = row0 + r;
    if (d >= used) continue;
    const bool valid = row >= first && row < last && d < dims;
    T* to = tile + r * kStride + d;
    const T* at = valid ? from + row * stride + d : from;
    if (vectors) {
      copy_chunk(to, at, valid);
    } else {
#pragma unroll 1
      for (int e = 0; e < kChunk; ++e) {
        if (valid && d + e < dims)
          to[e] = at[e];
        else
          narrow(to[e], 0.0f);
      }
    }
  }
}

template <int R, int N>
CAPSTAN_WARP_FUNCTION void clear(float (&x)[R][N][4]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[r][n][e] = 0.0f;
}

CAPSTAN_WARP_FUNCTION float inner_product(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// sums(r, n) += left row r . right row n; `left` points at the first row of the warp.
template <int D, int R, int N, typename T>
CAPSTAN_WARP_FUNCTION void add_products(float (&sums)[R][N][4], const T* left, const T* right, int dims) {
  constexpr int kStride = AttentionTiles<T, D, false>::kStride;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int d0 = 0; d0 < D; d0 += kDimsAtOnce) {
      if (d0 > 0 && d0 >= dims) break;
#pragma unroll
      for (int d = d0; d < d0 + kDimsAtOnce; d += 16) {
        LeftTile a[R];
#pragma unroll
        for (int r = 0; r < R; ++r) load_left(a[r], left + r * 16 * kStride + d, kStride);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
          RightTile b[2];
          load_right_rows(b, right + n * 8 * kStride + d, kStride);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            multiply_add(sums[r][n], a[r], b[0], T{});
            multiply_add(sums[r][n + 1], a[r], b[1], T{});
          }
        }
      }
    }
  } else {
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    const auto four = [](const float* at) { return *reinterpret_cast<const float4*>(at); };
    for (int d = 0; d < dims; d += 4) {  // up to 3 of them zeros
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float4 upper = four(left + (r * 16 + g) * kStride + d),
                     lower = four(left + (r * 16 + g + 8) * kStride + d);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float4 column = four(right + (n * 8 + 2 * t + e) * kStride + d);
            sums[r][n][e] = inner_product(upper, column, sums[r][n][e]);
            sums[r][n][2 + e] = inner_product(lower, column, sums[r][n][2 + e]);
          }
        }
      }
    }
  }
}

/// sums(r, d) += sum over columns n of weights(r, n) tile[n][d], for `dims` dims of Out.
template <int D, int Out, int R, int N, typename T>
CAPSTAN_WARP_FUNCTION void add_weighted(float (&sums)[R][Out / 8][4], const float (&weights)[R][N][4], const T* tile,
                                        float* staging, int dims) {
  constexpr int kStride = AttentionTiles<T, D, false>::kStride;
  if constexpr (sizeof(T) == 2) {
    LeftTile a[R][N / 2];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        a[r][n / 2].x[n % 2 * 2] = word_of_floats<T>(weights[r][n][0], weights[r][n][1]);
        a[r][n / 2].x[n % 2 * 2 + 1] = word_of_floats<T>(weights[r][n][2], weights[r][n][3]);
      }
#pragma unroll
    for (int d = 0; d < Out; d += kDimsAtOnce) {
      if (d > 0 && d >= dims) break;
#pragma unroll
      for (int k = 0; k < N / 2; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          RightTile b[2];
          load_right_columns(b, tile + k * 16 * kStride + d + half * 16, kStride);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            multiply_add(sums[r][d / 8 + half * 2], a[r][k], b[0], T{});
            multiply_add(sums[r][d / 8 + half * 2 + 1], a[r][k], b[1], T{});
          }
        }
      }
    }
  } else {
    static_assert(R == 1);
    constexpr int kRow = N * 8 + 1;
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) staging[(g + e / 2 * 8) * kRow + n * 8 + 2 * t + e % 2] = weights[0][n][e];
    __syncwarp();
    for (int k = 0; k < N * 8; ++k) {
      const float upper = staging[g * kRow + k], lower = staging[(g + 8) * kRow + k];
#pragma unroll
      for (int n = 0; n < Out / 8; ++n) {
        if (n * 8 >= dims) break;
        const float2 row = *reinterpret_cast<const float2*>(tile + k * kStride + n * 8 + 2 * t);
        sums[0][n][0] = fmaf(upper, row.x, sums[0][n][0]);
        sums[0][n][1] = fmaf(upper, row.y, sums[0][n][1]);
        sums[0][n][2] = fmaf(lower, row.x, sums[0][n][2]);
        sums[0][n][3] = fmaf(lower, row.y, sums[0][n][3]);
      }
    }
  }
}

/// sums(r, n) += sum over k < K of left(r, k) right(n, k), operands by functions of their element; the first N column
/// groups of sums.
template <typename T, int N, int M, typename Left, typename Right>
CAPSTAN_WARP_FUNCTION void add_gathered(float (&sums)[M][4], int K, Left&& left, Right&& right) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll 1
    for (int k = 0; k < K; k += 16) {
      LeftTile a;
      gather_left<T>(a, [&](int r, int e) { return left(r, k + e); });
#pragma unroll
      for (int n = 0; n < N; ++n) {
        RightTile b;
        gather_right<T>(b, [&](int row, int e) { return right(n * 8 + row, k + e); });
        multiply_add(sums[n], a, b, T{});
      }
    }
  } else {
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    for (int k = 0; k < K; ++k) {
      const float upper = left(g, k), lower = left(g + 8, k);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float column = right(n * 8 + 2 * t + e, k);
          sums[n][e] = fmaf(upper, column, sums[n][e]);
          sums[n][2 + e] = fmaf(lower, column, sums[n][2 + e]);
        }
    }
  }
}

/// sums(r, d) += sum over rows k < K of left(r, k) tile[k][d], for the dims of sums. The left side by a function.
template <int D, int N, typename T, typename Left>
CAPSTAN_WARP_FUNCTION void add_gathered_rows(float (&sums)[N][4], int K, Left&& left, const T* tile) {
  constexpr int kStride = AttentionTiles<T, D, false>::kStride;
  if constexpr (sizeof(T) == 2) {
#pragma unroll 1
    for (int k = 0; k < K; k += 16) {
      LeftTile a;
      gather_left<T>(a, [&](int r, int e) {
        T x;
        narrow(x, left(r, k + e));
        return x;
      });
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        RightTile b[2];
        load_right_columns(b, tile + k * kStride + n * 8, kStride);
        multiply_add(sums[n], a, b[0], T{});
        multiply_add(sums[n + 1], a, b[1], T{});
      }
    }
  } else {
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      const float upper = left(g, k), lower = left(g + 8, k);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float x = tile[k * kStride + n * 8 + 2 * t + e];
          sums[n][e] = fmaf(upper, x, sums[n][e]);
          sums[n][2 + e] = fmaf(lower, x, sums[n][2 + e]);
        }
    }
  }
}

/// Two neighbours of a row of results; `dims` are left in it from here.
template <typename T>
CAPSTAN_WARP_FUNCTION void store_two(T* to, float a, float b, int dims) {
  if (dims > 0) narrow(to[0], a);
  if (dims > 1) narrow(to[1], b);
}

/// Rows of gradients from sums, times `scale`: written, or added in f32. Row r of the warp is element `to + r * stride`
/// (rows beyond `rows` are not written).
template <typename T, int N>
CAPSTAN_WARP_FUNCTION void give_rows(const float (&sums)[N][4], float scale, void* to, int64_t at, int64_t stride,
                                     int rows, int dims, bool accumulate) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = g + half * 8;
    if (r >= rows) continue;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int d = n * 8 + 2 * t;
      const float a = sums[n][half * 2] * scale, b = sums[n][half * 2 + 1] * scale;
      if (accumulate) {
        float* row = static_cast<float*>(to) + at + r * stride + d;
        if (d < dims) row[0] += a;
        if (d + 1 < dims) row[1] += b;
      } else {
        store_two(static_cast<T*>(to) + at + r * stride + d, a, b, dims - d);
      }
    }
  }
}

/// The exponential of weights: 16-bit weights need no more than the fast one.
template <typename T>
CAPSTAN_WARP_FUNCTION float exponential(float x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return expf(x);
}

}  // namespace capstan::kernels::cuda
