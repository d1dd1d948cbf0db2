// The backward of attention. Scores are computed again from the logsumexp, by two kernels that share no sums: one holds
// keys and sums dk and dv over the queries of all heads that read them, one holds queries and sums dq over their keys
// (and, in blocks of their own, the gradient of relative queries). So every sum has one owner and one order. Gradients
// of what goes by distance are summed along diagonals by a third: a block takes one band of distances of one head
// through all sequences; a last kernel adds up the bands of each distance.

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_own.h"

namespace capstan::kernels::cuda {
namespace {

/// delta of each row: its output times the output's gradient. A warp per row.
template <typename T>
__global__ void attention_delta(const __grid_constant__ AttentionProblem p) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; row < rows;
       row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
    const int64_t head = row / p.queries;
    const int64_t at = (head / p.heads * p.queries + row % p.queries) * p.o_stride + head % p.heads * p.head_size;
    const T* o = static_cast<const T*>(p.o) + at;
    const T* d_o = static_cast<const T*>(p.d_o) + at;
    float sum = 0.0f;
    for (int d = lane; d < p.head_size; d += 32) sum = fmaf(widen(o[d]), widen(d_o[d]), sum);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) p.delta[row] = sum;
  }
}

/// Keys of one tile and the queries that pass by.
template <typename T, int D, bool Extras>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_keys(const __grid_constant__ AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  constexpr int N = Tiles::kColumns / 8, kOut = Tiles::kOut;
  CAPSTAN_SHARED_MEMORY(memory);
  T* keys = reinterpret_cast<T*>(memory);
  T* values = keys + Tiles::kRows * Tiles::kStride;
  T* tiles = values + Tiles::kRows * Tiles::kStride;
  float* statistics = reinterpret_cast<float*>(tiles + 2 * Tiles::kStages * Tiles::kTileElements);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int g = lane / 4, t = lane % 4;
  float* staging = statistics + Tiles::kStages * 2 * Tiles::kColumns + warp * Tiles::kWarpMemory;
  const int b = static_cast<int>(blockIdx.x) / p.kv_heads, kv_head = static_cast<int>(blockIdx.x) % p.kv_heads;
  const int begin = static_cast<int>(blockIdx.y) * Tiles::kRows, end = min(p.keys, begin + Tiles::kRows);
  const int part = static_cast<int>(blockIdx.z) * kOut, dims = p.head_size - part;
  for (int k0 = begin; k0 < end;) {
    const AttentionSegment s = segment_of_keys(p, b, k0, end);
    const AttentionHead first_head(p, b, kv_head * p.group, s.offset);
    const int64_t at = first_head.key_at(p, 0);
    const int steps = (s.q1 - s.q0 + Tiles::kColumns - 1) / Tiles::kColumns, count = steps * p.group;
    const auto load = [&](int n, int stage) {
      const AttentionHead head(p, b, kv_head * p.group + n / steps, s.offset);
      const int i0 = s.q0 + n % steps * Tiles::kColumns;
      T* queries = tiles + 2 * stage * Tiles::kTileElements;
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                        p.q_stride, i0, s.q0, s.q1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(queries + Tiles::kTileElements,
                                                        static_cast<const T*>(p.d_o) + head.output_at(p, 0), p.o_stride,
                                                        i0, s.q0, s.q1, p.head_size, p.vectors);
      const int c = static_cast<int>(threadIdx.x);
      if (c < Tiles::kColumns) {
        float* to = statistics + stage * 2 * Tiles::kColumns + c;
        to[0] = i0 + c < s.q1 ? p.logsumexp[head.statistic_at(p, i0 + c)] : 0.0f;
        to[Tiles::kColumns] = i0 + c < s.q1 ? p.delta[head.row_at(p, i0 + c)] : 0.0f;
      }
    };
    if (count > 0) {
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(keys, static_cast<const T*>(p.k) + at, p.kv_stride, s.k0, s.k0,
                                                     s.k1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(values, static_cast<const T*>(p.v) + at, p.kv_stride, s.k0, s.k0,
                                                     s.k1, p.head_size, p.vectors);
      load(0, 0);
    }
    float dk[1][kOut / 8][4], dv[1][kOut / 8][4];
    clear(dk);
    clear(dv);
    const int row0 = s.k0 + warp * 16;
    int stage = 0;
    for (int n = 0; n < count; ++n) {
      copies_done();
      __syncthreads();  // this tile is there, and all are done with the one before
      if (Tiles::kStages == 2 && n + 1 < count) load(n + 1, 1 - stage);
      const T* queries = tiles + 2 * stage * Tiles::kTileElements;
      const T* gradients = queries + Tiles::kTileElements;
      const float* of_queries = statistics + stage * 2 * Tiles::kColumns;
      const int i0 = s.q0 + n % steps * Tiles::kColumns, i1 = min(s.q1, i0 + Tiles::kColumns);
      // Some key of this warp is seen by some query of the tile.
      if (row0 < s.k1 && lowest_key(p, s, i0) < row0 + 16 && highest_key(p, s, i1 - 1) > row0) {
        const AttentionHead head(p, b, kv_head * p.group + n / steps, s.offset);
        const bool full = i0 + Tiles::kColumns <= s.q1 && lowest_key(p, s, i1 - 1) <= row0 &&
                          highest_key(p, s, i0) >= min(s.k1, row0 + 16);
        const ExtrasOf<T, N, false, Extras> extras(p, head, row0, i0, s.q1, staging);
        float scores[1][N][4], slopes[1][N][4];
        clear(scores);
        clear(slopes);
        add_products<D>(scores, keys + warp * 16 * Tiles::kStride, queries, p.head_size);
        add_products<D>(slopes, values + warp * 16 * Tiles::kStride, gradients, p.head_size);
#pragma unroll
        for (int m = 0; m < N; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int c = m * 8 + 2 * t + e % 2, i = i0 + c, j = row0 + g + e / 2 * 8;
            const bool seen = full || (i < s.q1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i));
            differentiate<T>(p, seen, extras.addend(m, e), extras.factor(p, m, e), of_queries[c],
                             of_queries[Tiles::kColumns + c], scores[0][m][e], slopes[0][m][e]);
          }
        add_weighted<D, kOut>(dv, scores, gradients + part, staging, dims);
        add_weighted<D, kOut>(dk, slopes, queries + part, staging, dims);
      }
      if (Tiles::kStages == 2) {
        stage = 1 - stage;
      } else if (n + 1 < count) {
        __syncthreads();
        load(n + 1, 0);
      }
    }
    const int64_t to = at + row0 * p.kv_stride + part;
    give_rows<T>(dk[0], p.scale, p.dk, to, p.kv_stride, s.k1 - row0, dims, p.accumulate);
    give_rows<T>(dv[0], 1.0f, p.dv, to, p.kv_stride, s.k1 - row0, dims, p.accumulate);
    __syncthreads();  // shared memory is free for the next segment
    k0 = s.k1;
  }
}

/// sums += d(scores) of 16 queries times relative keys, for kRelativeOut dims from `part` on.
template <typename T, int N, int M>
CAPSTAN_WARP_FUNCTION void add_relative_keys(float (&sums)[M][4], const AttentionProblem& p, const AttentionHead& head,
                                             int row0, int j0, const float (&slopes)[1][N][4], float* staging,
                                             int part) {
  __syncwarp();
  stage_slopes(staging, slopes);
  __syncwarp();
#pragma unroll 1
  for (int n = 0; n < N; n += 2) {
    const RelativeUnit unit(head, row0, j0 + n * 8);
    add_gathered<T, 8>(
        sums, 32,
        [&](int r, int u) {
          const int c = r + 15 - u;
          T x;
          narrow(x, c >= 0 && c < 16 && n * 8 + c < N * 8 ? staging[r * (N * 8 + 1) + n * 8 + c] : 0.0f);
          return x;
        },
        [&](int d, int u) { return head.relative_key<T>(p, unit.farthest + u, part + d); });
  }
}

/// Queries of one tile and the keys that pass by: dq, or (blockIdx.z > 0) dims of the gradient of relative queries.
template <typename T, int D, bool Extras>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_queries(const __grid_constant__ AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  constexpr int N = Tiles::kColumns / 8;
  CAPSTAN_SHARED_MEMORY(memory);
  T* queries = reinterpret_cast<T*>(memory);
  T* gradients = queries + Tiles::kRows * Tiles::kStride;
  T* tiles = gradients + Tiles::kRows * Tiles::kStride;
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* staging =
      reinterpret_cast<float*>(tiles + 2 * Tiles::kStages * Tiles::kTileElements) + warp * Tiles::kWarpMemory;
  const int b = static_cast<int>(blockIdx.x) / p.heads, h = static_cast<int>(blockIdx.x) % p.heads;
  const int begin = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Tiles::kRows,
            end = min(p.queries, begin + Tiles::kRows);
  const int part = (static_cast<int>(blockIdx.z) - 1) * Tiles::kRelativeOut;  // negative: dq
  for (int q0 = begin; q0 < end;) {
    const AttentionSegment s = segment_of_queries(p, b, q0, end);
    const AttentionHead head(p, b, h, s.offset);
    const T* k = static_cast<const T*>(p.k) + head.key_at(p, 0);
    const T* v = static_cast<const T*>(p.v) + head.key_at(p, 0);
    const auto load = [&](int j0, int stage) {
      T* keys = tiles + 2 * stage * Tiles::kTileElements;
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys, k, p.kv_stride, j0, s.k0, s.k1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys + Tiles::kTileElements, v, p.kv_stride, j0, s.k0, s.k1,
                                                        p.head_size, p.vectors);
    };
    const int first = lowest_key(p, s, s.q0), last = highest_key(p, s, s.q1 - 1);
    load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                   p.q_stride, s.q0, s.q0, s.q1, p.head_size, p.vectors);
    load_rows<T, D, Tiles::kRows, Tiles::kThreads>(gradients, static_cast<const T*>(p.d_o) + head.output_at(p, 0),
                                                   p.o_stride, s.q0, s.q0, s.q1, p.head_size, p.vectors);
    if (first < last) load(first, 0);
    float dq[1][D / 8][4];
    clear(dq);
    BackwardRows<T, D, Extras> rows(p, head, s.q0, s.q1);
    const int row0 = rows.row0, row1 = min(s.q1, row0 + 16), own = warp * 16 * Tiles::kStride;
    int stage = 0;
    for (int j0 = first; j0 < last; j0 += Tiles::kColumns) {
      copies_done();
      __syncthreads();  // this tile is there, and all are done with the one before
      const bool more = j0 + Tiles::kColumns < last;
      if (Tiles::kStages == 2 && more) load(j0 + Tiles::kColumns, 1 - stage);
      const T* keys = tiles + 2 * stage * Tiles::kTileElements;
      if (row0 < s.q1 && highest_key(p, s, row1 - 1) > j0 && lowest_key(p, s, row0) < j0 + Tiles::kColumns) {
        const bool full = lowest_key(p, s, row1 - 1) <= j0 && highest_key(p, s, row0) >= j0 + Tiles::kColumns;
        float slopes[1][N][4];
        clear(slopes);
        rows.add_tile(
            p, head, s.q1, j0, queries + own, gradients + own, keys, keys + Tiles::kTileElements, staging,
            [&](int i, int j) { return full || (i < s.q1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i)); },
            slopes);
        if constexpr (Extras) {
          if (part >= 0) add_relative_keys<T>(dq[0], p, head, row0, j0, slopes, staging, part);
        }
        if (part < 0) add_weighted<D, D>(dq, slopes, keys, staging, p.head_size);
      }
      if (Tiles::kStages == 2) {
        stage = 1 - stage;
      } else if (more) {
        __syncthreads();
        load(j0 + Tiles::kColumns, 0);
      }
    }
    if (part < 0) {
      give_rows<T>(dq[0], p.scale, p.dq, head.query_at(p, row0), p.q_stride, s.q1 - row0, p.head_size, p.accumulate);
    } else {
      give_rows<T>(dq[0], p.scale, p.d_relative_q, head.query_at(p, row0) + part, p.q_stride, s.q1 - row0,
                   min(Tiles::kRelativeOut, p.head_size - part), p.accumulate);
    }
    copies_done();
    __syncthreads();  // shared memory is free for the next segment
    q0 = s.q1;
  }
}

template <typename T, int D, bool Extras>
void backward(const AttentionBackwardArgs& args, AttentionProblem p) {
  using Tiles = BackwardTiles<T, D, Extras>;
  const auto tiles = [](int n) { return static_cast<unsigned>((n + Tiles::kRows - 1) / Tiles::kRows); };
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
  launch(attention_delta<T>, dim3(blocks_for(rows, 4)), dim3(128), 0, args.stream, p);
  const dim3 keys(static_cast<unsigned>(p.batch * p.kv_heads), tiles(p.keys),
                  static_cast<unsigned>((p.head_size + Tiles::kOut - 1) / Tiles::kOut));
  launch(attention_backward_keys<T, D, Extras>, keys, dim3(Tiles::kThreads), Tiles::kSharedBytes, args.stream, p);
  const int relative = p.relative_distances > 0 ? (p.head_size + Tiles::kRelativeOut - 1) / Tiles::kRelativeOut : 0;
  const dim3 queries(static_cast<unsigned>(p.batch * p.heads), tiles(p.queries), static_cast<unsigned>(1 + relative));
  launch(attention_backward_queries<T, D, Extras>, queries, dim3(Tiles::kThreads), Tiles::kSharedBytes, args.stream, p);
}

/// Floats of delta, rounded up to whole cache lines.
int64_t delta_floats(const AttentionShape& s) { return (s.batch * s.heads * s.queries + 31) / 32 * 32; }

}  // namespace

size_t attention_own_backward_scratch(const AttentionShape& shape) {
  return static_cast<size_t>(delta_floats(shape) + distance_scratch(shape)) * sizeof(float);
}

void attention_own_backward(const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  AttentionProblem p = attention_problem(args);
  // The backward reads these only: none of them is written through.
  p.o = const_cast<void*>(args.o), p.logsumexp = static_cast<float*>(const_cast<void*>(args.logsumexp));
  p.d_o = args.d_o, p.dq = args.dq, p.dk = args.dk, p.dv = args.dv, p.d_relative_q = args.d_relative_q;
  p.accumulate = args.accumulate;
  p.vectors = p.vectors && rows_are_vectors(args.d_o, s.o_stride, s.head_size, bytes_of(s.dtype));
  float* scratch = static_cast<float*>(args.scratch);
  p.delta = scratch;
  with_attention_kind(s.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    backward<T, D, Extras>(args, p);
  });
  if (s.bias_distances > 0 || s.relative_distances > 0) add_distances(args, p, scratch + delta_floats(s));
}

}  // namespace capstan::kernels::cuda
