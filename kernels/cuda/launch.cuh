#pragma once
// How a kernel is launched and how its dynamic shared memory is named. All device sources go through here and use no
// <<<>>>, so that they are plain C++ too: tests compile them against tests/emulated_cuda, where the threads of a block
// are fibers. Rules: kernels take raw pointers and plain structs by value; a launch only enqueues on its stream.
//
//   __global__ void twice(const float* x, float* y, int64_t n) {
//     CAPSTAN_SHARED_MEMORY(shared);   // char*, shared_bytes of the launch, aligned to 128
//     ...
//   }
//   launch(twice, dim3(blocks), dim3(256), shared_bytes, args.stream, x, y, n);

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/cuda/check.h"

#define CAPSTAN_HOST_DEVICE __host__ __device__

#ifdef CAPSTAN_EMULATED_CUDA
#define CAPSTAN_SHARED_MEMORY(name) char* name = ::emulated_cuda::dynamic_shared_memory()
#else
#define CAPSTAN_SHARED_MEMORY(name)                           \
  extern __shared__ __align__(128) char capstan_shared_all[]; \
  char* name = capstan_shared_all
#endif

namespace capstan::kernels::cuda {

/// Bytes of dynamic shared memory that every kernel may have; more is asked for by launch().
inline constexpr size_t kSharedBytesUnasked = 48 * 1024;

/// The largest second and third extent of a grid.
inline constexpr unsigned kLargestGridYZ = 65535;

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;  // nothing to do; the runtime refuses an empty grid
  if (shared_bytes > kSharedBytesUnasked) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute (shared memory of a kernel)");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  if (status == cudaSuccess) return;
  const char* name = "?";
  if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) != cudaSuccess) name = "?";
  check(status, ("launch of " + std::string(name)).c_str());
}

/// ceil(n / size) as an extent of a grid, at most `most`: kernels step through the rest.
inline unsigned blocks_for(int64_t n, int64_t size, int64_t most = 65535) {
  const int64_t blocks = (n + size - 1) / size;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

}  // namespace capstan::kernels::cuda
