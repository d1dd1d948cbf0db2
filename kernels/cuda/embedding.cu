// Table look-up, and its gradient without atomics: the rows are sorted by their id (each block sorts the rows of a band
// of ids, which it finds by reading all ids), then the rows of one entry are added in ascending order in registers and
// written once, by threads that own its columns.

#include "kernels/embedding.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kBand = 128;  ///< entries that a block sorts the rows of

/// A row in the list of a band, and which entry of the band its id is.
struct BandRow {
  int32_t row, entry;
};

/// The lists of embedding_backward, in its scratch.
struct SortedRows {
  BandRow* bands;   ///< [rows], by band, in each by row
  int32_t* starts;  ///< [entries + 1]: where the rows of an entry begin in `rows`
  int32_t* rows;    ///< [rows], by entry, in each by row

  SortedRows(void* scratch, int64_t row_count, int64_t entries) {
    bands = static_cast<BandRow*>(scratch);
    starts = reinterpret_cast<int32_t*>(bands + row_count);
    rows = starts + entries + 1;
  }
};

template <typename T, int N>
__global__ void __launch_bounds__(kBlock) embedding_kernel(EmbeddingArgs a) {
  const int64_t packs = a.width / N;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < a.rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const int64_t at = a.ids[r] - a.first;
    const bool here = at >= 0 && at < a.entries;  // else another shard has it: zeros
    for (int64_t p = threadIdx.x; p < packs; p += blockDim.x) {
      float v[N] = {}, other[N];
      if (here) load_pack(static_cast<const T*>(a.table) + at * a.width + p * N, v);
      if (a.add != nullptr) {
        load_pack(static_cast<const T*>(a.add) + r * a.width + p * N, other);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] += other[j];
      }
      store_pack(static_cast<T*>(a.y) + r * a.width + p * N, v);
    }
  }
}

/// What was before this thread in the block; all threads call it. shared: one number per thread and one more.
__device__ int32_t sum_before(int32_t mine, int32_t* shared) {
  const int t = static_cast<int>(threadIdx.x);
  shared[t + 1] = mine;
  if (t == 0) shared[0] = 0;
  __syncthreads();
  for (int step = 1; step < static_cast<int>(blockDim.x); step *= 2) {
    const int32_t other = t >= step ? shared[t + 1 - step] : 0;
    __syncthreads();
    shared[t + 1] += other;
    __syncthreads();
  }
  return shared[t];
}

/// Sorts the rows of entries [band kBand, + kBand). Each warp reads a run of ids, so that what they find is in order.
__global__ void __launch_bounds__(kBlock)
    sort_rows_kernel(const int32_t* ids, SortedRows sorted, int64_t rows, int64_t entries, int64_t first) {
  __shared__ int32_t shared[kBlock + 1], sums[kMostWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp;
  const int64_t band = static_cast<int64_t>(blockIdx.x) * kBand;
  const int64_t band_end = band + kBand < entries ? band + kBand : entries;
  const int64_t each = (rows + kBlock / kWarp - 1) / (kBlock / kWarp);
  const int64_t begin = t / kWarp * each, end = begin + each < rows ? begin + each : rows;
  int32_t below = 0, inside = 0;
  for (int64_t r = begin + lane; r < end; r += kWarp) {
    const int64_t entry = ids[r] - first;
    below += entry >= 0 && entry < band ? 1 : 0;
    inside += entry >= band && entry < band_end ? 1 : 0;
  }
  const int32_t offset = block_sum(below, sums);
  inside = warp_sum(inside);
  BandRow* place = sorted.bands + offset + sum_before(lane == 0 ? inside : 0, shared);
  place -= lane == 0 ? 0 : inside;  // what is before the warp
  const int32_t count = shared[kBlock];
  for (int64_t next = begin; next < end; next += kWarp) {
    const int64_t entry = next + lane < end ? ids[next + lane] - first : -1;
    const bool found = entry >= band && entry < band_end;
    const unsigned all = __ballot_sync(kAllLanes, found);
    if (found) {
      place[__popc(all & ((1u << lane) - 1))] = {static_cast<int32_t>(next + lane), static_cast<int32_t>(entry - band)};
    }
    place += __popc(all);
  }
  __syncthreads();  // the list of the band is there for all threads of the block

  const BandRow* list = sorted.bands + offset;
  int32_t mine = 0;
  for (int32_t i = 0; t < kBand && i < count; ++i) mine += list[i].entry == t ? 1 : 0;
  int32_t at = offset + sum_before(mine, shared);
  if (band + t < band_end) sorted.starts[band + t] = at;
  if (t == 0 && band_end == entries) sorted.starts[entries] = offset + count;
  for (int32_t i = 0; t < kBand && i < count; ++i) {
    if (list[i].entry == t) sorted.rows[at++] = list[i].row;
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kBlock) embedding_backward_kernel(EmbeddingBackwardArgs a, SortedRows sorted) {
  const int64_t packs = a.width / N;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; e < a.entries;
       e += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const int32_t begin = sorted.starts[e], end = sorted.starts[e + 1];
    if (begin == end && a.accumulate) continue;
    float* entry = static_cast<float*>(a.dtable) + e * a.width;
    for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < packs;
         p += static_cast<int64_t>(gridDim.y) * blockDim.x) {
      float sum[N] = {};
      if (a.accumulate) load_pack(entry + p * N, sum);
#pragma unroll 8
      for (int32_t i = begin; i < end; ++i) {
        float v[N];
        load_pack(static_cast<const T*>(a.dy) + sorted.rows[i] * a.width + p * N, v);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += v[j];
      }
      store_pack(entry + p * N, sum);
    }
  }
}

/// A block of rows side by side: as many threads for a row as it has packs.
dim3 row_block(int64_t packs) {
  unsigned x = kWarp;
  while (x < kBlock && x < packs) x *= 2;
  return dim3(x, kBlock / x);
}

template <typename T, int N>
void run_embedding(const EmbeddingArgs& a) {
  const dim3 block = row_block(a.width / N);
  launch(embedding_kernel<T, N>, dim3(blocks_for(a.rows, block.y, 1 << 20)), block, 0, a.stream, a);
}

template <typename T, int N>
void run_embedding_backward(const EmbeddingBackwardArgs& a, const SortedRows& sorted) {
  const int64_t packs = a.width / N;
  const dim3 block = row_block(packs);
  // The rows of a frequent entry come one after the other: its columns are shared out to many blocks.
  const dim3 grid(blocks_for(a.entries, block.y, 1 << 20), blocks_for(packs, block.x, kLargestGridYZ));
  launch(embedding_backward_kernel<T, N>, grid, block, 0, a.stream, a, sorted);
}

}  // namespace

void embedding(const EmbeddingArgs& args) {
  with_element(args.dtype, "embedding", [&]<typename T>(T) {
    if (args.width % kPack<T> == 0 && aligned({args.table, args.add, args.y})) {
      run_embedding<T, kPack<T>>(args);
    } else {
      run_embedding<T, 1>(args);
    }
  });
}

size_t embedding_backward_scratch(int64_t rows, int64_t entries) {
  return static_cast<size_t>(rows) * (sizeof(BandRow) + sizeof(int32_t)) +
         static_cast<size_t>(entries + 1) * sizeof(int32_t);
}

void embedding_backward(const EmbeddingBackwardArgs& args) {
  with_element(args.dtype, "embedding_backward", [&]<typename T>(T) {
    const SortedRows sorted(args.scratch, args.rows, args.entries);
    const auto bands = static_cast<unsigned>(divided_up(args.entries, kBand));
    launch(sort_rows_kernel, dim3(bands), dim3(kBlock), 0, args.stream, args.ids, sorted, args.rows, args.entries,
           args.first);
    if (args.width % 4 == 0 && aligned({args.dy, args.dtable})) {
      run_embedding_backward<T, 4>(args, sorted);
    } else {
      run_embedding_backward<T, 1>(args, sorted);
    }
  });
}

}  // namespace capstan::kernels::cuda
