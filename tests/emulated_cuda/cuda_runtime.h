#pragma once
// What a device source sees besides the runtime API: built-in variables, barriers, warp functions, arithmetic. The
// threads of a block are fibers of one OS thread; a barrier or warp function is where a fiber gives way to the next,
// and the answers are CUDA's: from a lane that has ended or is not in the mask comes NaN.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_runtime_api.h"
#include "emulated_cuda.h"

#define __shared__ static thread_local
#define __constant__ static

extern thread_local constinit uint3 threadIdx;
extern thread_local constinit uint3 blockIdx;
extern thread_local constinit uint3 blockDim;
extern thread_local constinit uint3 gridDim;
inline constexpr int warpSize = 32;

namespace emulated_cuda {

enum class WarpFunction {
  sync,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  any,
  all,
  add,
  minimum,
  maximum
};

/// Waits for all lanes of `mask`; the answer is this lane's.
uint64_t meet_warp(WarpFunction function, uint32_t mask, uint64_t value, int argument, int width);
enum class BlockFunction { sync, count, conjunction, disjunction };
int meet_block(BlockFunction function, int predicate);
char* dynamic_shared_memory();

template <typename T>
T exchange(WarpFunction function, uint32_t mask, T value, int argument, int width) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet_warp(function, mask, bits, argument, width);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

void check_kernel_pointer(const void* address, const char* kernel, size_t index);
template <typename T>
void check_kernel_argument(const T& argument, const void* kernel, size_t index) {
  if constexpr (std::is_pointer_v<T>) check_kernel_pointer(argument, static_cast<const char*>(kernel), index);
}

}  // namespace emulated_cuda

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using namespace emulated_cuda;
  const void* address = reinterpret_cast<const void*>(kernel);
  if (const cudaError_t wrong = check_launch(*config, address); wrong != cudaSuccess) return status(wrong);
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  std::apply(
      [&](const auto&... value) {
        size_t index = 0;
        (check_kernel_argument(value, address, index++), ...);
      },
      values);
  return status(enqueue(config->stream, [config = *config, kernel, address, values] {
    run_grid(config.gridDim, config.blockDim, config.dynamicSmemBytes, name_of_function(address),
             [&] { std::apply(kernel, values); });
  }));
}

template <typename T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <typename... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Parameters...), int threads,
                                                          size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel), threads,
                                                       shared_bytes);
}

// Barriers and warp functions.
inline void __syncthreads() { emulated_cuda::meet_block(emulated_cuda::BlockFunction::sync, 0); }
inline int __syncthreads_count(int p) { return emulated_cuda::meet_block(emulated_cuda::BlockFunction::count, p); }
inline int __syncthreads_and(int p) { return emulated_cuda::meet_block(emulated_cuda::BlockFunction::conjunction, p); }
inline int __syncthreads_or(int p) { return emulated_cuda::meet_block(emulated_cuda::BlockFunction::disjunction, p); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulated_cuda::meet_warp(emulated_cuda::WarpFunction::sync, mask, 0, 0, 32);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return emulated_cuda::exchange(emulated_cuda::WarpFunction::shuffle, mask, value, lane, width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulated_cuda::exchange(emulated_cuda::WarpFunction::shuffle_up, mask, value, static_cast<int>(delta), width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulated_cuda::exchange(emulated_cuda::WarpFunction::shuffle_down, mask, value, static_cast<int>(delta),
                                 width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulated_cuda::exchange(emulated_cuda::WarpFunction::shuffle_xor, mask, value, lanes, width);
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return static_cast<unsigned>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::ballot, mask, p != 0, 0, 32));
}
inline int __any_sync(unsigned mask, int p) {
  return static_cast<int>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::any, mask, p != 0, 0, 32));
}
inline int __all_sync(unsigned mask, int p) {
  return static_cast<int>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::all, mask, p != 0, 0, 32));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v) {
  return static_cast<unsigned>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::add, mask, v, 0, 32));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) {
  return static_cast<unsigned>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::minimum, mask, v, 0, 32));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
  return static_cast<unsigned>(emulated_cuda::meet_warp(emulated_cuda::WarpFunction::maximum, mask, v, 0, 32));
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// Integer atomics: fibers never interrupt each other.
template <typename T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "sums of floats by atomics differ from run to run");
  return std::exchange(*at, static_cast<T>(*at + value));
}
template <typename T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  return std::exchange(*at, std::max(*at, value));
}
template <typename T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  return std::exchange(*at, std::min(*at, value));
}
template <typename T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  return std::exchange(*at, static_cast<T>(*at | value));
}
template <typename T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return std::exchange(*at, value);
}

// Vectors, loads with a hint, bits, arithmetic.
#include "device_arithmetic.h"
