// Gradients of what goes by distance, the table and relative keys: sums of d(scores) along diagonals. A block takes one
// band of distances of one head through all sequences in order, so every sum has one owner and one order; a second
// kernel adds up the bands of each distance.

#include "kernels/cuda/attention_backward.cuh"

namespace capstan::kernels::cuda {
namespace {

/// Bands of distances: band m holds, for its tiles' first query, distances lowest + m * columns and the next columns
/// - 1.
struct DistanceBands {
  int lowest, highest, columns, width, count;  // width: entries of a band, one for each distance that its tiles meet
  float *table, *relative;                     // [heads, count, width], and [.., head_size]

  DistanceBands(const AttentionShape& s, int tile_columns, int band, float* scratch)
      : lowest(static_cast<int>(s.is_block() ? s.offset(0) - s.keys + 1 : 1 - s.queries)),
        highest(static_cast<int>(s.is_block() ? s.offset(0) + s.queries - 1 : s.keys - 1)),
        columns(tile_columns),
        width(band),
        count((highest - lowest) / tile_columns + 1),
        table(scratch),
        relative(scratch + (s.bias_distances > 0 ? s.heads * count * width : 0)) {}
};

/// One band of one head, through all sequences in order. blockIdx.z: which dims of relative keys.
template <typename T, int D>
__global__ void __launch_bounds__(AttentionTiles<T, D, true>::kThreads)
    attention_backward_bands(const __grid_constant__ AttentionProblem p, DistanceBands bands) {
  using Tiles = BackwardTiles<T, D, true>;
  constexpr int N = Tiles::kColumns / 8, C = Tiles::kColumns, kOut = Tiles::kRelativeOut;
  constexpr int kGroups = (Tiles::kBand + 16 * Tiles::kWarps - 1) / (16 * Tiles::kWarps);  // of 16 distances, per warp
  static_assert(Tiles::kBand <= Tiles::kThreads);
  CAPSTAN_SHARED_MEMORY(memory);
  T* queries = reinterpret_cast<T*>(memory);
  T* gradients = queries + Tiles::kRows * Tiles::kStride;
  T* keys = gradients + Tiles::kRows * Tiles::kStride;
  T* values = keys + Tiles::kTileElements;
  float* memory_of_warps = reinterpret_cast<float*>(values + Tiles::kTileElements);
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* staging = memory_of_warps + warp * Tiles::kWarpMemory;
  // d(score) of row r and column c of the tile, in the staging of the warp whose row it is.
  const auto slope = [&](int r, int c) { return memory_of_warps[r / 16 * Tiles::kWarpMemory + r % 16 * (C + 1) + c]; };
  const int h = static_cast<int>(blockIdx.x), part = static_cast<int>(blockIdx.z) * kOut;
  const int nearest = bands.lowest + static_cast<int>(blockIdx.y) * C;  // distance of column 0 of the band
  const bool none =
      (p.window > 0 && nearest >= p.window) || (p.causal && !p.mask.prefix_lengths && nearest + Tiles::kBand <= 1);
  float table = 0.0f, relative[kGroups][kOut / 8][4];
  clear(relative);
  for (int b = 0; b < p.batch && !none; ++b) {
    const AttentionSegment s = whole_of(p, b);
    const AttentionHead head(p, b, h, s.offset);
    const int32_t* query_documents = p.mask.query_documents + static_cast<int64_t>(b) * p.queries;
    const int32_t* key_documents = p.mask.key_documents + static_cast<int64_t>(b) * p.keys;
    for (int i0 = 0; i0 < p.queries; i0 += Tiles::kRows) {
      const int j0 = i0 + s.offset - (C - 1) - nearest, i1 = min(p.queries, i0 + Tiles::kRows);
      const int k0 = max(0, j0), k1 = min(s.k1, j0 + C);
      if (k1 <= k0 || highest_key(p, s, i1 - 1) <= k0 || lowest_key(p, s, i0) >= k1) continue;
      if (p.mask.query_documents &&
          (query_documents[i1 - 1] < key_documents[k0] || query_documents[i0] > key_documents[k1 - 1]))
        continue;
      __syncthreads();  // all are done with the tile before
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries, static_cast<const T*>(p.q) + head.query_at(p, 0),
                                                     p.q_stride, i0, i0, i1, p.head_size, p.vectors);
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(gradients, static_cast<const T*>(p.d_o) + head.output_at(p, 0),
                                                     p.o_stride, i0, i0, i1, p.head_size, p.vectors);
      load_rows<T, D, C, Tiles::kThreads>(keys, static_cast<const T*>(p.k) + head.key_at(p, 0), p.kv_stride, j0, k0, k1,
                                          p.head_size, p.vectors);
      load_rows<T, D, C, Tiles::kThreads>(values, static_cast<const T*>(p.v) + head.key_at(p, 0), p.kv_stride, j0, k0,
                                          k1, p.head_size, p.vectors);
      copies_done();
      __syncthreads();
      BackwardRows<T, D, true> rows(p, head, i0, i1);
      const int own = warp * 16 * Tiles::kStride;
      float slopes[1][N][4];
      clear(slopes);
      rows.add_tile(
          p, head, i1, j0, queries + own, gradients + own, keys, values, staging,
          [&](int i, int j) {
            return i < i1 && j >= k0 && j < k1 && j >= lowest_key(p, s, i) && j < highest_key(p, s, i) &&
                   (!p.mask.query_documents || query_documents[i] == key_documents[j]);
          },
          slopes);
      __syncwarp();
      stage_slopes(staging, slopes);
      __syncthreads();
      const int u = static_cast<int>(threadIdx.x);
      for (int r = max(0, u - (C - 1)); p.bias_distances > 0 && r < min(Tiles::kRows, u + 1); ++r)
        table += slope(r, r + C - 1 - u);
      if (p.relative_distances == 0) continue;
      // Queries have been used: their place is for relative queries.
      load_rows<T, D, Tiles::kRows, Tiles::kThreads>(queries,
                                                     static_cast<const T*>(p.mask.relative_q) + head.query_at(p, 0),
                                                     p.q_stride, i0, i0, i1, p.head_size, p.relative_vectors);
      copies_done();
      __syncthreads();
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int u0 = (warp * kGroups + group) * 16;
        add_gathered_rows<D>(
            relative[group], Tiles::kRows,
            [&](int row, int r) {
              const int c = r + C - 1 - u0 - row;
              return c >= 0 && c < C ? slope(r, c) : 0.0f;
            },
            queries + part);
      }
    }
  }
  const int64_t at = (static_cast<int64_t>(h) * bands.count + blockIdx.y) * bands.width;
  if (p.bias_distances > 0 && part == 0 && static_cast<int>(threadIdx.x) < bands.width)
    bands.table[at + threadIdx.x] = table;
  if (p.relative_distances == 0) return;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int u0 = (warp * kGroups + group) * 16;
    give_rows<float>(relative[group], 1.0f, bands.relative, (at + u0) * p.head_size + part, p.head_size,
                     bands.width - u0, p.head_size - part, false);
  }
}

/// Element (d, h, e) of a gradient by distance from the bands: `size` elements to a distance of a head.
template <typename T>
__global__ void attention_add_bands(DistanceBands bands, const float* from, int distances, int heads, int size,
                                    float scale, void* to, bool accumulate) {
  const int64_t count = static_cast<int64_t>(distances) * heads * size;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count;
       n += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int e = static_cast<int>(n % size), h = static_cast<int>(n / size % heads);
    const int d = static_cast<int>(n / size / heads);
    // The ends of the table stand for all distances beyond them.
    const int first = d == 0 ? bands.lowest - bands.width : d,
              last = d == distances - 1 ? bands.highest + bands.width : d;
    const int m0 = max(0, (first - bands.width - bands.lowest) / bands.columns);
    const int m1 = min(bands.count - 1, (last - bands.lowest) / bands.columns);
    float sum = 0.0f;
    for (int m = m0; m <= m1; ++m) {
      const int nearest = bands.lowest + m * bands.columns;
      const int u1 = min(bands.width - 1, last - nearest);
      for (int u = max(0, first - nearest); u <= u1; ++u)
        sum += from[((static_cast<int64_t>(h) * bands.count + m) * bands.width + u) * size + e];
    }
    if (accumulate)
      static_cast<float*>(to)[n] += sum * scale;
    else
      narrow(static_cast<T*>(to)[n], sum * scale);
  }
}

/// The kernel of bands is built for heads up to 128 and up to 256 only.
template <typename F>
void with_bands(const AttentionShape& s, F&& f) {
  AttentionProblem p{};
  p.head_size = static_cast<int>(s.head_size), p.kept = 1.0f;
  with_attention_kind(s.dtype, p, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>) {
    constexpr int kDims = D > 128 ? 256 : 128;
    using Tiles = BackwardTiles<T, kDims, true>;
    f(AttentionKind<T, kDims, true>{}, Tiles::kColumns, Tiles::kBand);
  });
}

}  // namespace

int64_t distance_scratch(const AttentionShape& s) {
  int64_t floats = 0;
  with_bands(s, [&](auto, int columns, int width) {
    const DistanceBands bands(s, columns, width, nullptr);
    const int64_t entries = s.heads * bands.count * bands.width;
    floats = (s.bias_distances > 0 ? entries : 0) + (s.relative_distances > 0 ? entries * s.head_size : 0);
  });
  return floats;
}

void add_distances(const AttentionBackwardArgs& args, const AttentionProblem& p, float* scratch) {
  with_bands(args.shape, [&]<typename T, int D, bool Extras>(AttentionKind<T, D, Extras>, int columns, int width) {
    using Tiles = BackwardTiles<T, D, Extras>;
    const DistanceBands bands(args.shape, columns, width, scratch);
    const int parts = p.relative_distances > 0 ? (p.head_size + Tiles::kRelativeOut - 1) / Tiles::kRelativeOut : 1;
    launch(attention_backward_bands<T, D>,
           dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(bands.count), static_cast<unsigned>(parts)),
           dim3(Tiles::kThreads), Tiles::kBandBytes, args.stream, p, bands);
    const auto add = [&](int distances, int size, float scale, const float* from, void* to) {
      if (distances == 0) return;
      launch(attention_add_bands<T>, dim3(blocks_for(static_cast<int64_t>(distances) * p.heads * size, 128)), dim3(128),
             0, args.stream, bands, from, distances, p.heads, size, scale, to, p.accumulate);
    };
    add(p.bias_distances, 1, 1.0f, bands.table, args.d_distance_bias);
    add(p.relative_distances, p.head_size, p.scale, bands.relative, args.d_relative_k);
  });
}

}  // namespace capstan::kernels::cuda
