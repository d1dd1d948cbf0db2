// Sums over rows by column. A block owns a strip of columns and a slice of the rows: eight warps take turns at its
// rows, each lane holding a pack of columns, and are added up in order; the slices are then added up in order.

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/matmul.h"

namespace capstan::kernels::cuda {
namespace {

constexpr int kRowLanes = kBlock / kWarp;

/// Sum over the warps of the block of `mine`, column by column, in the order of the warps; valid in warp 0.
template <int N>
__device__ void add_up_warps(float (&mine)[N], float (*shared)[kWarp * N]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int j = 0; j < N; ++j) shared[warp][j * kWarp + lane] = mine[j];
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    for (int other = 1; other < kRowLanes; ++other) mine[j] += shared[other][j * kWarp + lane];
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kBlock)
    bias_gradient_kernel(const T* dy, float* partials, int64_t rows, int64_t n, int64_t slices) {
  __shared__ float shared[kRowLanes][kWarp * N];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp) * N, slice = blockIdx.y;
  const int64_t each = (rows + slices - 1) / slices, end = slice * each + each < rows ? slice * each + each : rows;
  float sum[N] = {};
  if (column < n) {  // whole packs: N divides n
#pragma unroll 4
    for (int64_t r = slice * each + threadIdx.x / kWarp; r < end; r += kRowLanes) {
      float v[N];
      load_pack(dy + r * n + column, v);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += v[j];
    }
  }
  add_up_warps(sum, shared);
  if (threadIdx.x < kWarp && column < n) store_pack(partials + slice * n + column, sum);
}

__global__ void __launch_bounds__(kBlock)
    sum_slices_kernel(const float* partials, float* to, int64_t slices, int64_t width, bool accumulate) {
  __shared__ float shared[kRowLanes][kWarp];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  float sum[1] = {0.0f};
  if (column < width) {
#pragma unroll 4
    for (int64_t s = threadIdx.x / kWarp; s < slices; s += kRowLanes) sum[0] += partials[s * width + column];
  }
  add_up_warps(sum, shared);
  if (threadIdx.x < kWarp && column < width) to[column] = accumulate ? to[column] + sum[0] : sum[0];
}

/// Enough blocks to fill a device with a few columns; whole slices of at least 32 rows.
int64_t bias_slices(int64_t rows, int64_t n) {
  const int64_t wanted = (int64_t{1} << 18) / std::max<int64_t>(n, 1);
  return std::clamp<int64_t>(std::min(wanted, rows / 32), 1, 1024);
}

template <typename T, int N>
void run_bias_gradient(const BiasGradientArgs& a) {
  const int64_t slices = bias_slices(a.rows, a.n);
  const dim3 grid(static_cast<unsigned>(divided_up(a.n, kWarp * N)), static_cast<unsigned>(slices));
  launch(bias_gradient_kernel<T, N>, grid, dim3(kBlock), 0, a.stream, static_cast<const T*>(a.dy),
         static_cast<float*>(a.scratch), a.rows, a.n, slices);
  sum_slices(static_cast<const float*>(a.scratch), static_cast<float*>(a.db), slices, a.n, a.accumulate, a.stream);
}

}  // namespace

void sum_slices(const float* partials, float* to, int64_t slices, int64_t width, bool accumulate, Stream stream) {
  const auto blocks = static_cast<unsigned>(divided_up(width, kWarp));
  launch(sum_slices_kernel, dim3(blocks), dim3(kBlock), 0, stream, partials, to, slices, width, accumulate);
}

size_t bias_gradient_scratch(int64_t rows, int64_t n) {
  return static_cast<size_t>(bias_slices(rows, n) * std::max<int64_t>(n, 0)) * sizeof(float);
}

void bias_gradient(const BiasGradientArgs& args) {
  with_element(args.dtype, "bias_gradient", [&]<typename T>(T) {
    if (args.n % kPack<T> == 0 && aligned({args.dy, args.scratch})) {
      run_bias_gradient<T, kPack<T>>(args);
    } else {
      run_bias_gradient<T, 1>(args);
    }
  });
}

}  // namespace capstan::kernels::cuda
