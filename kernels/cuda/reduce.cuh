#pragma once
// Sums over the threads of a warp, of a group of warps that share a row, and of a block, in an order fixed by the
// shape alone: butterflies of shuffles, then the warps' results in shared memory. Every thread gets the result. All
// threads of the block must call the group's and the block's functions the same number of times.

#include <cstdint>

#include "kernels/cuda/element.cuh"

namespace capstan::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMostWarps = 32;  ///< of a block: the size of the shared array that the functions below are given

template <typename A>
__device__ A warp_sum(A v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

/// Sum over the `threads` (whole warps) of the group of this thread.
template <typename A>
__device__ A group_sum(A v, int threads, A* shared) {
  v = warp_sum(v);
  if (threads == kWarp) return v;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = threads / kWarp, first = static_cast<int>(threadIdx.x) / threads * warps;
  __syncthreads();  // the last use of `shared` is over
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  return warp_sum(lane < warps ? shared[first + lane] : A(0));
}

template <typename A>
__device__ A block_sum(A v, A* shared) {
  return group_sum(v, static_cast<int>(blockDim.x), shared);
}

/// How rows are shared out: `threads` (whole warps) work on a row, `rows` rows are done by a block side by side.
struct RowGroups {
  int threads, rows;
  int block() const { return threads * rows; }
};

/// Groups in which a thread holds `held` packs of the row, as far as `most` threads suffice.
inline RowGroups row_groups(int64_t packs, int held, int most) {
  const int64_t warps = divided_up(divided_up(packs, held), kWarp);
  const int threads = static_cast<int>(std::clamp<int64_t>(warps * kWarp, kWarp, most));
  return {threads, std::max(1, kBlock / threads)};
}

/// to[i] (=|+=) partials[0][i] + partials[1][i] + ..., in an order fixed by `slices`.
void sum_slices(const float* partials, float* to, int64_t slices, int64_t width, bool accumulate, Stream stream);

}  // namespace capstan::kernels::cuda
