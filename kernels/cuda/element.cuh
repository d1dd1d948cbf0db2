#pragma once
// What the row and element kernels know about element types: loads into float and rounding back, packs of elements that
// move as 128 bits, and a kernel that walks an array by packs. An element's bits never depend on whether a whole pack
// or the end of an array held it: these files are compiled without contraction and fuse only where the source says
// fmaf.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/types.h"

namespace capstan::kernels::cuda {

constexpr int kWarp = 32;
constexpr int kBlock = 256;  ///< threads of a block that walks an array

/// Elements of T in 128 bits.
template <typename T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

__device__ inline void from_float(float& y, float x) { y = x; }
__device__ inline void from_float(__nv_bfloat16& y, float x) { y = __float2bfloat16_rn(x); }
__device__ inline void from_float(__half& y, float x) { y = __float2half_rn(x); }

/// x as it will be read back from memory of T.
template <typename T>
__device__ float as_stored(float x) {
  T stored;
  from_float(stored, x);
  return to_float(stored);
}

/// N elements in accesses of at most 128 bits; `from` is aligned to min(16, N elements).
template <int N, typename T>
__device__ void load_pack(const T* from, float (&to)[N]) {
  constexpr int kEach = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kEach) {
    const auto pack = *reinterpret_cast<const Pack<T, kEach>*>(from + i);
#pragma unroll
    for (int j = 0; j < kEach; ++j) to[i + j] = to_float(pack.at[j]);
  }
}

template <int N, typename T>
__device__ void store_pack(T* to, const float (&from)[N]) {
  constexpr int kEach = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kEach) {
    Pack<T, kEach> pack;
#pragma unroll
    for (int j = 0; j < kEach; ++j) from_float(pack.at[j], from[i + j]);
    *reinterpret_cast<Pack<T, kEach>*>(to + i) = pack;
  }
}

/// Calls f(T{}) with the element type of dtype; throws where these kernels have no such element.
template <typename F>
void with_element(DType dtype, const char* kernel, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(__nv_bfloat16{});
    case DType::f16:
      return f(__half{});
    default:
      throw std::invalid_argument(std::string(kernel) + ": the CUDA kernels compute in f32, bf16 and f16, not in " +
                                  name_of(dtype) + "; fp64 runs on device = \"reference\"");
  }
}

/// Null pointers are aligned: there is nothing to access.
inline bool aligned(std::initializer_list<const void*> pointers, size_t bytes = 16) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [=](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; });
}

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// f.run<N>(i) for whole packs, f.run<1>(i) for what is left of `count`.
template <int N, typename F>
__global__ void __launch_bounds__(kBlock) each_pack_kernel(F f, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlock * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) * N; i < count; i += stride) {
    if (i + N <= count) {
      f.template run<N>(i);
    } else {
      for (int64_t j = i; j < count; ++j) f.template run<1>(j);
    }
  }
}

template <int N, typename F>
void each_pack(const F& f, int64_t count, Stream stream) {
  if (count <= 0) return;
  const int64_t blocks = std::min<int64_t>(divided_up(count, kBlock * N), 1 << 20);
  launch(each_pack_kernel<N, F>, static_cast<unsigned>(blocks), kBlock, 0, stream, f, count);
}

/// By packs of N where `by_packs` allows it, else element by element.
template <int N, typename F>
void each_element(const F& f, int64_t count, bool by_packs, Stream stream) {
  if (by_packs) {
    each_pack<N>(f, count, stream);
  } else {
    each_pack<1>(f, count, stream);
  }
}

}  // namespace capstan::kernels::cuda
