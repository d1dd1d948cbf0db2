// Attention of a few queries over a long cache, as when tokens are generated: bound by reading keys and values, which
// are read once for up to kHeads heads that share them. The keys of a query are shared out over blocks; their partial
// results (maximum, sum, weighted values) lie in scratch and a second kernel puts them together in ascending order.

#include "kernels/cuda/attention_kind.cuh"
#include "kernels/cuda/attention_own.h"
#include "kernels/cuda/attention_tile.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kDecodeQueries = 4;  // up to here
constexpr int kHeads = 8;          // query heads that share one reading of a key
constexpr int kDecodeThreads = 128;
constexpr int64_t kBlocksWanted = 264;  // two for each multiprocessor of an H100
constexpr int64_t kKeysWorthABlock = 256;

template <typename T, int D>
struct DecodeTiles {
  static constexpr int kKeys = 128 / static_cast<int>(sizeof(T));
  static constexpr int kStride = AttentionTiles<T, D, false>::kStride;
  static constexpr size_t kSharedBytes = sizeof(T) * 2 * kKeys * kStride + sizeof(float) * kHeads * (3 * D + kKeys + 4);
};

struct DecodeLayout {
  int heads_at_once, parts, splits;  // parts: of the heads of a group
  int64_t row_floats, floats;        // maximum, sum, values

  explicit DecodeLayout(const AttentionShape& s) {
    const int64_t group = s.heads / s.kv_heads;
    parts = static_cast<int>((group + kHeads - 1) / kHeads);
    heads_at_once = static_cast<int>((group + parts - 1) / parts);
    const int64_t units = s.batch * s.kv_heads * parts * s.queries;
    const int64_t wanted = units > 0 ? (kBlocksWanted + units - 1) / units : 1;
    const int64_t most = s.keys / kKeysWorthABlock;
    splits = static_cast<int>(wanted < most ? wanted : most);
    if (splits < 1) splits = 1;
    row_floats = s.head_size + 2;
    floats = s.batch * s.heads * s.queries * splits * row_floats;
  }
};

/// The inner product of a row of floats and one of T, both in shared memory and zero behind the head.
template <typename T>
CAPSTAN_WARP_FUNCTION float inner_product_of_rows(const float* q, const T* k, int dims) {
  constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
  struct alignas(16) Chunk {
    T x[kChunk];
  };
  float sum = 0.0f;
  for (int d = 0; d < dims; d += kChunk) {
    const Chunk chunk = *reinterpret_cast<const Chunk*>(k + d);
#pragma unroll
    for (int e = 0; e < kChunk; ++e) sum = fmaf(q[d + e], widen(chunk.x[e]), sum);
  }
  return sum;
}

/// Some keys of one query, for heads of one group. blockIdx: (sequence, key/value head, part), split,
/// query.
template <typename T, int D>
__global__ void __launch_bounds__(kDecodeThreads)
    attention_decode_keys(const __grid_constant__ AttentionProblem p, DecodeLayout layout, float* results) {
  using Tiles = DecodeTiles<T, D>;
  constexpr int kKeys = Tiles::kKeys, kStride = Tiles::kStride;
  CAPSTAN_SHARED_MEMORY(memory);
  T* keys = reinterpret_cast<T*>(memory);
  T* values = keys + kKeys * kStride;
  float* queries = reinterpret_cast<float*>(values + kKeys * kStride);  // [kHeads, D], as are the next two
  float* relative = queries + kHeads * D;
  float* sums = relative + kHeads * D;
  float* weights = sums + kHeads * D;            // [kHeads, kKeys]
  float* statistics = weights + kHeads * kKeys;  // [kHeads, 4]: maximum, sum, shrink
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int unit = static_cast<int>(blockIdx.x) / layout.parts, i = static_cast<int>(blockIdx.z);
  const int b = unit / p.kv_heads;
  const int in_group = static_cast<int>(blockIdx.x) % layout.parts * layout.heads_at_once;
  const int h0 = unit % p.kv_heads * p.group + in_group, heads = min(layout.heads_at_once, p.group - in_group);
  const AttentionSegment s = segment_of_queries(p, b, i, i + 1);
  const int low = lowest_key(p, s, i), high = highest_key(p, s, i), splits = static_cast<int>(gridDim.y);
  const int share = ((high - low + splits - 1) / splits + kKeys - 1) / kKeys * kKeys;
  const int begin = min(high, low + static_cast<int>(blockIdx.y) * share), end = min(high, begin + share);
  for (int n = thread; n < heads * D; n += kDecodeThreads) {
    const AttentionHead head(p, b, h0 + n / D, s.offset);
    const int d = n % D;
    queries[n] = d < p.head_size ? widen(static_cast<const T*>(p.q)[head.query_at(p, i) + d]) : 0.0f;
    relative[n] = p.relative_distances > 0 ? widen(head.relative_query<T>(p, i, p.queries, d)) : 0.0f;
    sums[n] = 0.0f;
  }
  for (int n = thread; n < heads; n += kDecodeThreads) statistics[n * 4] = -INFINITY, statistics[n * 4 + 1] = 0.0f;
  const AttentionHead first_head(p, b, h0, s.offset);
  const T* k = static_cast<const T*>(p.k) + first_head.key_at(p, 0);
  const T* v = static_cast<const T*>(p.v) + first_head.key_at(p, 0);
  for (int j0 = begin; j0 < end; j0 += kKeys) {
    load_rows<T, D, kKeys, kDecodeThreads>(keys, k, p.kv_stride, j0, begin, end, p.head_size, p.vectors);
    load_rows<T, D, kKeys, kDecodeThreads>(values, v, p.kv_stride, j0, begin, end, p.head_size, p.vectors);
    copies_done();
    __syncthreads();
    for (int n = thread; n < heads * kKeys; n += kDecodeThreads) {
      const int g = n / kKeys, c = n % kKeys, j = j0 + c;
      float score = -INFINITY;
      if (j < end) {
        const AttentionHead head(p, b, h0 + g, s.offset);
        score = inner_product_of_rows(queries + g * D, keys + c * kStride, p.head_size);
        for (int d = 0; p.relative_distances > 0 && d < p.head_size; ++d)
          score = fmaf(relative[g * D + d], widen(head.relative_key<T>(p, i + s.offset - j, d)), score);
        score = score * p.scale + head.bias<T>(p, i, j);
      }
      weights[n] = score;
    }
    __syncthreads();
    for (int g = warp; g < heads; g += kDecodeThreads / 32) {
      float top = statistics[g * 4];
      for (int c = lane; c < kKeys; c += 32) top = fmaxf(top, weights[g * kKeys + c]);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
      const float base = top == -INFINITY ? 0.0f : top;
      const AttentionHead head(p, b, h0 + g, s.offset);
      float total = 0.0f;
      for (int c = lane; c < kKeys; c += 32) {
        const float weight = expf(weights[g * kKeys + c] - base);
        total += weight;
        const bool dropped = p.kept > 0.0f && dropped_of(p, head, i, j0 + c) != 0;
        weights[g * kKeys + c] = dropped ? 0.0f : p.kept > 0.0f ? weight * p.kept : weight;
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
      if (lane == 0) {
        const float shrink = expf(statistics[g * 4] - base);
        statistics[g * 4] = top;
        statistics[g * 4 + 1] = statistics[g * 4 + 1] * shrink + total;
        statistics[g * 4 + 2] = shrink;
      }
      __syncwarp();
    }
    __syncthreads();
    const int count = min(kKeys, end - j0);
    for (int n = thread; n < heads * D; n += kDecodeThreads) {
      const int g = n / D, d = n % D;
      if (d >= p.head_size) continue;
      float sum = sums[n] * statistics[g * 4 + 2];
      for (int c = 0; c < count; ++c) sum = fmaf(weights[g * kKeys + c], widen(values[c * kStride + d]), sum);
      sums[n] = sum;
    }
    __syncthreads();
  }
  __syncthreads();
  for (int n = thread; n < heads * (p.head_size + 2); n += kDecodeThreads) {
    const int g = n / (p.head_size + 2), d = n % (p.head_size + 2);
    const int64_t row = (static_cast<int64_t>(b) * p.heads + h0 + g) * p.queries + i;
    results[(row * splits + static_cast<int>(blockIdx.y)) * layout.row_floats + d] =
        d < 2 ? statistics[g * 4 + d] : sums[g * D + d - 2];
  }
}

/// One row: the splits in ascending order, then what other keys gave. blockIdx.x: row.
template <typename T>
__global__ void attention_decode_rows(const __grid_constant__ AttentionProblem p, DecodeLayout layout,
                                      const float* results) {
  const int64_t row = blockIdx.x;
  const float* parts = results + row * layout.splits * layout.row_floats;
  const int i = static_cast<int>(row % p.queries), h = static_cast<int>(row / p.queries % p.heads);
  const int64_t b = row / p.queries / p.heads;
  const int64_t at = (b * p.queries + i) * p.o_stride + static_cast<int64_t>(h) * p.head_size;
  float* statistic = p.logsumexp ? p.logsumexp + (b * p.heads + h) * p.statistic_stride + i : nullptr;
  float top = -INFINITY, total = 0.0f;
  for (int n = 0; n < layout.splits; ++n) top = fmaxf(top, parts[n * layout.row_floats]);
  const float base = top == -INFINITY ? 0.0f : top;
  for (int n = 0; n < layout.splits; ++n)
    total += parts[n * layout.row_floats + 1] * expf(parts[n * layout.row_floats] - base);
  const float logsumexp = top + logf(total);
  float share = total == 0.0f ? 0.0f : 1.0f / total, before = 0.0f, merged = logsumexp;
  if (p.merge) {
    if (total == 0.0f) return;
    const float other = *statistic, highest = fmaxf(other, logsumexp);
    const float old_weight = expf(other - highest), new_weight = expf(logsumexp - highest);
    before = old_weight / (old_weight + new_weight);
    share *= new_weight / (old_weight + new_weight);
    merged = highest + logf(old_weight + new_weight);
  }
  for (int d = static_cast<int>(threadIdx.x); d < p.head_size; d += static_cast<int>(blockDim.x)) {
    float sum = 0.0f;
    for (int n = 0; n < layout.splits; ++n) {
      const float* part = parts + n * layout.row_floats;
      sum = fmaf(part[2 + d], expf(part[0] - base), sum);
    }
    if (p.merge) {
      float* o = static_cast<float*>(p.o) + at + d;
      *o = *o * before + sum * share;
    } else {
      narrow(static_cast<T*>(p.o)[at + d], sum * share);
    }
  }
  __syncthreads();  // all have read the statistic
  if (statistic && threadIdx.x == 0) *statistic = merged;
}

}  // namespace

bool is_attention_decode(const AttentionShape& shape) { return shape.queries <= kDecodeQueries; }

size_t attention_decode_scratch(const AttentionShape& shape) {
  return static_cast<size_t>(DecodeLayout(shape).floats) * sizeof(float);
}

void attention_decode(const AttentionArgs& args) {
  AttentionProblem p = attention_problem(args);
  p.o = args.o, p.logsumexp = static_cast<float*>(args.logsumexp), p.merge = args.merge;
  const DecodeLayout layout(args.shape);
  float* results = static_cast<float*>(args.scratch);
  with_attention_kind(args.shape.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    const dim3 grid(static_cast<unsigned>(p.batch * p.kv_heads * layout.parts), static_cast<unsigned>(layout.splits),
                    static_cast<unsigned>(p.queries));
    launch(attention_decode_keys<T, D>, grid, dim3(kDecodeThreads), DecodeTiles<T, D>::kSharedBytes, args.stream, p,
           layout, results);
    launch(attention_decode_rows<T>, dim3(static_cast<unsigned>(p.batch * p.heads * p.queries)), dim3(128), 0,
           args.stream, p, layout, static_cast<const float*>(results));
  });
}

}  // namespace capstan::kernels::cuda
