#pragma once
// Products of small tiles by one warp, on tensor cores: sums(16, 8) += left(16, 16) right(16, 8), elements bf16 or f16,
// sums float. The only file with instructions of the device by name (mma, ldmatrix). Where each lane's numbers lie is
// part of the interface, because softmax and masks work on sums in registers and weights go from sums to the next
// product without leaving them. With g = lane / 4 and t = lane % 4:
//   sums   x[0], x[1]: row g, columns 2t, 2t+1        x[2], x[3]: row g + 8, same columns
//   left   words, two elements each: (g, 2t..)  (g + 8, 2t..)  (g, 2t + 8..)  (g + 8, 2t + 8..)
//   right  words: rows 2t, 2t+1 of column g; rows 2t + 8, 2t + 9 of column g
// All lanes of a warp call together; rows of shared tiles begin at multiples of 16 bytes. Compiled as plain C++ (by the
// tests), lanes exchange their words through memory and loops do the sums.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#ifndef CAPSTAN_EMULATED_CUDA
#include <cuda_pipeline_primitives.h>
#endif

#include <cstdint>
#include <cstring>

namespace capstan::kernels::cuda {

#ifndef CAPSTAN_EMULATED_CUDA
#define CAPSTAN_WARP_FUNCTION __device__ __forceinline__
#else
#define CAPSTAN_WARP_FUNCTION inline
#ifndef __grid_constant__
#define __grid_constant__
#endif
#endif

struct LeftTile {
  uint32_t x[4];
};
struct RightTile {
  uint32_t x[2];
};

CAPSTAN_WARP_FUNCTION float widen(float x) { return x; }
CAPSTAN_WARP_FUNCTION float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
CAPSTAN_WARP_FUNCTION float widen(__half x) { return __half2float(x); }

CAPSTAN_WARP_FUNCTION void narrow(float& to, float x) { to = x; }
CAPSTAN_WARP_FUNCTION void narrow(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }
CAPSTAN_WARP_FUNCTION void narrow(__half& to, float x) { to = __float2half_rn(x); }

/// Two elements as one word, the first in the low half.
template <typename T>
CAPSTAN_WARP_FUNCTION uint32_t word_of(T low, T high) {
  uint16_t a, b;
  memcpy(&a, &low, 2);
  memcpy(&b, &high, 2);
  return static_cast<uint32_t>(a) | static_cast<uint32_t>(b) << 16;
}
template <typename T>
CAPSTAN_WARP_FUNCTION uint32_t word_of_floats(float low, float high) {
  T a, b;
  narrow(a, low);
  narrow(b, high);
  return word_of(a, b);
}

#ifndef CAPSTAN_EMULATED_CUDA

CAPSTAN_WARP_FUNCTION void multiply_add(float (&sums)[4], const LeftTile& a, const RightTile& b, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}
CAPSTAN_WARP_FUNCTION void multiply_add(float (&sums)[4], const LeftTile& a, const RightTile& b, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
CAPSTAN_WARP_FUNCTION void load_matrices(uint32_t (&x)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at)
               : "memory");
}
CAPSTAN_WARP_FUNCTION void load_matrices_transposed(uint32_t (&x)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at)
               : "memory");
}

/// left(r, k) = tile[r][k].
template <typename T>
CAPSTAN_WARP_FUNCTION void load_left(LeftTile& a, const T* tile, int stride) {
  const int lane = threadIdx.x % 32;
  load_matrices(a.x, tile + (lane % 16) * stride + lane / 16 * 8);
}
/// right(k, n) = tile[n][k] for 16 columns.
template <typename T>
CAPSTAN_WARP_FUNCTION void load_right_rows(RightTile (&b)[2], const T* tile, int stride) {
  const int lane = threadIdx.x % 32;
  uint32_t x[4];
  load_matrices(x, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
  b[0].x[0] = x[0], b[0].x[1] = x[1], b[1].x[0] = x[2], b[1].x[1] = x[3];
}
/// right(k, n) = tile[k][n] for 16 columns.
template <typename T>
CAPSTAN_WARP_FUNCTION void load_right_columns(RightTile (&b)[2], const T* tile, int stride) {
  const int lane = threadIdx.x % 32;
  uint32_t x[4];
  load_matrices_transposed(x, tile + (lane % 16) * stride + lane / 16 * 8);
  b[0].x[0] = x[0], b[0].x[1] = x[1], b[1].x[0] = x[2], b[1].x[1] = x[3];
}

/// 16 bytes from global to shared memory, zeros when not valid: under way until copies_done.
CAPSTAN_WARP_FUNCTION void copy_chunk(void* shared, const void* global, bool valid) {
  __pipeline_memcpy_async(shared, global, 16, valid ? 0 : 16);
}
/// All copies that this thread has begun have arrived; a barrier shows them to the others.
CAPSTAN_WARP_FUNCTION void copies_done() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

#else

template <typename T>
float element_of(uint32_t word, int high) {
  const uint16_t bits = static_cast<uint16_t>(high ? word >> 16 : word);
  T x;
  memcpy(static_cast<void*>(&x), &bits, 2);
  return widen(x);
}

/// One exchange of words per product: two buffers take turns, so that one barrier is enough.
struct WarpExchange {
  LeftTile left[2][32];
  RightTile right[2][32];
  int turn[32] = {};
};
inline thread_local WarpExchange warp_exchanges[32];  // by warp of the block that this thread runs

template <typename T>
void multiply_add(float (&sums)[4], const LeftTile& a, const RightTile& b, T) {
  WarpExchange& exchange = warp_exchanges[threadIdx.x / 32];
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4, turn = exchange.turn[lane];
  exchange.turn[lane] = 1 - turn;
  exchange.left[turn][lane] = a, exchange.right[turn][lane] = b;
  __syncwarp();
  for (int k = 0; k < 16; ++k) {
    const int word = k / 8, owner = k % 8 / 2;
    const LeftTile& row = exchange.left[turn][g * 4 + owner];
    const float upper = element_of<T>(row.x[word * 2], k % 2), lower = element_of<T>(row.x[word * 2 + 1], k % 2);
    for (int e = 0; e < 2; ++e) {
      const float column = element_of<T>(exchange.right[turn][(2 * t + e) * 4 + owner].x[word], k % 2);
      sums[e] += upper * column;
      sums[2 + e] += lower * column;
    }
  }
}

template <typename T>
void load_left(LeftTile& a, const T* tile, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int w = 0; w < 4; ++w) {
    const T* at = tile + (g + w % 2 * 8) * stride + 2 * t + w / 2 * 8;
    a.x[w] = word_of(at[0], at[1]);
  }
}
template <typename T>
void load_right_rows(RightTile (&b)[2], const T* tile, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int n = 0; n < 2; ++n)
    for (int w = 0; w < 2; ++w) {
      const T* at = tile + (n * 8 + g) * stride + 2 * t + w * 8;
      b[n].x[w] = word_of(at[0], at[1]);
    }
}
template <typename T>
void load_right_columns(RightTile (&b)[2], const T* tile, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int n = 0; n < 2; ++n)
    for (int w = 0; w < 2; ++w) {
      const T* at = tile + (2 * t + w * 8) * stride + n * 8 + g;
      b[n].x[w] = word_of(at[0], at[stride]);
    }
}

inline void copy_chunk(void* shared, const void* global, bool valid) {
  if (valid)
    memcpy(shared, global, 16);
  else
    memset(shared, 0, 16);
}
inline void copies_done() {}

#endif

/// left(r, k) = element(r, k), right(k, n) = element(n, k): operands that do not lie in a tile of shared memory.
template <typename T, typename F>
CAPSTAN_WARP_FUNCTION void gather_left(LeftTile& a, F&& element) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int r = g + w % 2 * 8, k = 2 * t + w / 2 * 8;
    a.x[w] = word_of<T>(element(r, k), element(r, k + 1));
  }
}
template <typename T, typename F>
CAPSTAN_WARP_FUNCTION void gather_right(RightTile& b, F&& element) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int w = 0; w < 2; ++w) b.x[w] = word_of<T>(element(g, 2 * t + w * 8), element(g, 2 * t + w * 8 + 1));
}

}  // namespace capstan::kernels::cuda
