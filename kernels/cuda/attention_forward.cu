// The forward of attention: a block takes a tile of queries of one head through the keys that they see, with a running
// maximum and sum (Dao, "FlashAttention-2", 2023). Tiles of documents fall into segments that are attended one by one.
// Late tiles of a causal sequence see the most keys and are begun first.

#include "kernels/cuda/attention_extras.cuh"
#include "kernels/cuda/attention_kind.cuh"
#include "kernels/cuda/attention_own.h"

namespace capstan::kernels::cuda {
namespace {

template <typename T, int D, bool Extras>
struct ForwardTiles : AttentionTiles<T, D, false> {
  using Base = AttentionTiles<T, D, false>;
  // Two groups of rows share each read of keys and values; what biases need leaves no registers for that.
  static constexpr int kGroups = Base::kHalf && !Extras && D <= 128 ? 2 : 1;
  static constexpr int kRows = 16 * Base::kWarps * kGroups;
  static constexpr int kWarpMemory = Extras || !Base::kHalf ? kWarpFloats<Base::kColumns, Extras> : 0;
  static constexpr size_t kSharedBytes = sizeof(T) * (kRows * Base::kStride + 2 * Base::kStages * Base::kTileElements) +
                                         sizeof(float) * Base::kWarps * kWarpMemory;
};

/// What one warp carries through the keys. Sums and maxima of rows are those of this lane's columns until the end.
template <typename T, int D, bool Extras>
struct ForwardWarp {
  using Tiles = ForwardTiles<T, D, Extras>;
  static constexpr int R = Tiles::kGroups, N = Tiles::kColumns / 8;
  float out[R][D / 8][4];
  float top[R][2], sum[R][2];
  int low[R][2], high[R][2];
  int row0;  // the warp's first query

  CAPSTAN_WARP_FUNCTION void begin(const AttentionProblem& p, const AttentionSegment& s) {
    row0 = s.q0 + static_cast<int>(threadIdx.x / 32) * 16 * R;
    clear(out);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = query(r, half);
        top[r][half] = -INFINITY, sum[r][half] = 0.0f;
        low[r][half] = i < s.q1 ? lowest_key(p, s, i) : 0;
        high[r][half] = i < s.q1 ? highest_key(p, s, i) : 0;
      }
  }
  CAPSTAN_WARP_FUNCTION int query(int r, int half) const {
    return row0 + r * 16 + half * 8 + static_cast<int>(threadIdx.x % 32) / 4;
  }

  /// Scores of keys from j0 on: scaled, with what is added to them, -inf where a key is not seen.
  template <typename Addend>
  CAPSTAN_WARP_FUNCTION void mask(const AttentionProblem& p, const AttentionSegment& s, int j0, Addend&& addend,
                                  float (&scores)[R][N][4]) {
    const int column = j0 + static_cast<int>(threadIdx.x % 4) * 2;
    const int last = min(s.q1, row0 + 16 * R) - 1;
    const bool full = lowest_key(p, s, last) <= j0 && highest_key(p, s, row0) >= j0 + N * 8;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int j = column + n * 8 + e % 2;
          const float score = scores[r][n][e] * p.scale + addend(n, e);
          scores[r][n][e] = full || (j >= low[r][e / 2] && j < high[r][e / 2]) ? score : -INFINITY;
        }
  }

  /// Scores become weights relative to the maximum so far; what was summed shrinks to it.
  CAPSTAN_WARP_FUNCTION void soften(float (&scores)[R][N][4]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = top[r][half];
#pragma unroll
        for (int n = 0; n < N; ++n) highest = fmaxf(highest, fmaxf(scores[r][n][half * 2], scores[r][n][half * 2 + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float base = highest == -INFINITY ? 0.0f : highest;
        const float shrink = exponential<T>(top[r][half] - base);
        top[r][half] = highest;
        float total = sum[r][half] * shrink;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = half * 2; e < half * 2 + 2; ++e) {
            scores[r][n][e] = exponential<T>(scores[r][n][e] - base);
            total += scores[r][n][e];
          }
        sum[r][half] = total;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          out[r][n][half * 2] *= shrink;
          out[r][n][half * 2 + 1] *= shrink;
        }
      }
  }

  CAPSTAN_WARP_FUNCTION void add_tile(const AttentionProblem& p, const AttentionSegment& s, const AttentionHead& head,
                                      int j0, const T* queries, const T* keys, const T* values, float* staging) {
    if (row0 >= s.q1) return;
    const int last = min(s.q1, row0 + 16 * R) - 1;
    if (highest_key(p, s, last) <= j0 || lowest_key(p, s, row0) >= j0 + N * 8) return;
    float scores[R][N][4];
    clear(scores);
    if constexpr (Extras) {
      const TileExtras<T, N, true> extras(p, head, row0, j0, s.q1, staging);
      add_products<D>(scores, queries, keys, p.head_size);
      mask(
          p, s, j0, [&](int n, int e) { return extras.addend(n, e); }, scores);
      soften(scores);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[0][n][e] *= extras.factor(p, n, e);
    } else {
      add_products<D>(scores, queries, keys, p.head_size);
      mask(
          p, s, j0, [](int, int) { return 0.0f; }, scores);
      soften(scores);
    }
    add_weighted<D, D>(out, scores, values, staging, p.head_size);
  }

  /// One row of results: written, or merged with what other keys gave.
  CAPSTAN_WARP_FUNCTION void finish_row(const AttentionProblem& p, const AttentionHead& head, int r, int half, int i) {
    float total = sum[r][half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float logsumexp = top[r][half] + logf(total);
    float share = total == 0.0f ? 0.0f : 1.0f / total, before = 0.0f, merged = logsumexp;
    if (p.merge && i >= 0) {
      const float other = p.logsumexp[head.statistic_at(p, i)];
      const float highest = fmaxf(other, logsumexp);
      const float old_weight = expf(other - highest), new_weight = expf(logsumexp - highest);
      before = old_weight / (old_weight + new_weight);
      share *= new_weight / (old_weight + new_weight);
      merged = highest + logf(old_weight + new_weight);
    }
    __syncwarp();  // all lanes of the row have read its statistic
    if (i < 0 || (p.merge && total == 0.0f)) return;
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
    const int64_t at = head.output_at(p, i);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const int d = n * 8 + column;
      const float a = out[r][n][half * 2] * share, b = out[r][n][half * 2 + 1] * share;
      if (p.merge) {
        float* o = static_cast<float*>(p.o) + at + d;
        if (d < p.head_size) o[0] = o[0] * before + a;
        if (d + 1 < p.head_size) o[1] = o[1] * before + b;
      } else {
        store_two(static_cast<T*>(p.o) + at + d, a, b, p.head_size - d);
      }
    }
    if (p.logsumexp && column == 0) p.logsumexp[head.statistic_at(p, i)] = merged;
  }

  CAPSTAN_WARP_FUNCTION void finish(const AttentionProblem& p, const AttentionSegment& s, const AttentionHead& head) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = query(r, half);
        finish_row(p, head, r, half, i < s.q1 ? i : -1);
      }
  }
};

template <typename T, int D, bool Extras>
__global__ void __launch_bounds__(AttentionTiles<T, D, false>::kThreads)
    attention_forward(const __grid_constant__ AttentionProblem p) {
  using Tiles = ForwardTiles<T, D, Extras>;
  CAPSTAN_SHARED_MEMORY(memory);
  T* queries = reinterpret_cast<T*>(memory);
  T* tiles = queries + Tiles::kRows * Tiles::kStride;
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* staging =
      reinterpret_cast<float*>(tiles + 2 * Tiles::kStages * Tiles::kTileElements) + warp * Tiles::kWarpMemory;
  const int b = static_cast<int>(blockIdx.x) / p.heads, h = static_cast<int>(blockIdx.x) % p.heads;
  const int begin = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Tiles::kRows,
            end = min(p.queries, begin + Tiles::kRows);
  for (int q0 = begin; q0 < end;) {
    const AttentionSegment s = segment_of_queries(p, b, q0, end);
    const AttentionHead head(p, b, h, s.offset);
    const T* q = static_cast<const T*>(p.q) + head.query_at(p, 0);
    const T* k = static_cast<const T*>(p.k) + head.key_at(p, 0);
    const T* v = static_cast<const T*>(p.v) + head.key_at(p, 0);
    const auto load = [&](int j0, int stage) {
      T* keys = tiles + 2 * stage * Tiles::kTileElements;
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys, k, p.kv_stride, j0, s.k0, s.k1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kColumns, Tiles::kThreads>(keys + Tiles::kTileElements, v, p.kv_stride, j0, s.k0, s.k1,
                                                        p.head_size, p.vectors);
    };
    const int first = first_column(p, lowest_key(p, s, s.q0)), last = highest_key(p, s, s.q1 - 1);
    load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries, q, p.q_stride, s.q0, s.q0, s.q1, p.head_size, p.vectors);
    if (first < last) load(first, 0);
    ForwardWarp<T, D, Extras> state;
    state.begin(p, s);
    const T* rows = queries + warp * 16 * Tiles::kGroups * Tiles::kStride;
    int stage = 0;
    for (int j0 = first; j0 < last; j0 += Tiles::kColumns) {
      copies_done();
      __syncthreads();  // this tile is there, and all are done with the one before
      const bool more = j0 + Tiles::kColumns < last;
      if (Tiles::kStages == 2 && more) load(j0 + Tiles::kColumns, 1 - stage);
      const T* keys = tiles + 2 * stage * Tiles::kTileElements;
      state.add_tile(p, s, head, j0, rows, keys, keys + Tiles::kTileElements, staging);
      if (Tiles::kStages == 2) {
        stage = 1 - stage;
      } else if (more) {
        __syncthreads();
        load(j0 + Tiles::kColumns, 0);
      }
    }
    state.finish(p, s, head);
    copies_done();
    __syncthreads();  // shared memory is free for the next segment
    q0 = s.q1;
  }
}

}  // namespace

size_t attention_own_scratch(const AttentionShape& shape) {
  return is_attention_decode(shape) ? attention_decode_scratch(shape) : 0;
}

void attention_own(const AttentionArgs& args) {
  if (is_attention_decode(args.shape)) return attention_decode(args);
  AttentionProblem p = attention_problem(args);
  p.o = args.o, p.logsumexp = static_cast<float*>(args.logsumexp), p.merge = args.merge;
  with_attention_kind(args.shape.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    using Tiles = ForwardTiles<T, D, Extras>;
    const dim3 grid(static_cast<unsigned>(p.batch * p.heads),
                    static_cast<unsigned>((p.queries + Tiles::kRows - 1) / Tiles::kRows));
    launch(attention_forward<T, D, Extras>, grid, dim3(Tiles::kThreads), Tiles::kSharedBytes, args.stream, p);
  });
}

}  // namespace capstan::kernels::cuda
