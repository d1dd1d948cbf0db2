#include "kernels/cpu/vector/gemm.h"

#include <omp.h>

#include "kernels/cpu/vector/gemm_small.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kDepth = 256;          // k of a packed block: a panel of B stays in the first-level cache
constexpr int64_t kBlockRows = 168;      // rows of a packed block of A: it stays in the second-level cache
constexpr int64_t kBlockColumns = 2048;  // columns of a packed block of B
constexpr int64_t kSumFloats = 1 << 20;  // of f32 sums when C is narrower than f32 and k takes several blocks
constexpr int64_t kStream = 16;          // rows of a k-major operand that are packed at a time (pages, cache lines)

/// How one call is cut: the same at scratch time and at run time.
struct Cut {
  int row_parts = 1, column_parts = 1;
  int64_t rows = 0, columns = 0;  // of one thread
  int64_t depth = 0, block_rows = 0, block_columns = 0;
  bool sums = false;
  int64_t a_floats = 0, b_floats = 0, sum_floats = 0;
  int64_t thread_floats() const { return a_floats + b_floats + sum_floats; }
};

bool few_rows(const MatmulShape& s) { return s.m <= kFewRows && s.transpose_b && !s.transpose_a; }

Cut cut_of(const MatmulShape& s, int threads) {
  Cut cut;
  int64_t best = -1;
  for (int parts = 1; parts <= threads; ++parts) {
    const int64_t rows = round_up(blocks_of(s.m, parts), kPanelRows);
    const int64_t columns = round_up(blocks_of(s.n, threads / parts), kTileColumns);
    const int64_t cost = rows * columns + 16 * (rows + columns);  // products, and packing of both sides, per k
    if (best < 0 || cost < best) {
      best = cost;
      cut.row_parts = parts, cut.column_parts = threads / parts, cut.rows = rows, cut.columns = columns;
    }
  }
  cut.depth = larger<int64_t>(1, blocks_of(s.k, blocks_of(larger<int64_t>(s.k, 1), kDepth)));
  cut.sums = s.c != DType::f32 && s.k > cut.depth;
  cut.block_rows = round_up(blocks_of(cut.rows, blocks_of(cut.rows, kBlockRows)), kPanelRows);
  int64_t columns = kBlockColumns;
  if (cut.sums) columns = smaller(columns, larger<int64_t>(kSumFloats / cut.rows / kTileColumns, 4) * kTileColumns);
  cut.block_columns = round_up(blocks_of(cut.columns, blocks_of(cut.columns, columns)), kTileColumns);
  cut.a_floats = round_up(cut.block_rows * cut.depth + kLanes, 16);
  cut.b_floats = round_up(cut.block_columns * cut.depth + kLanes, 16);
  cut.sum_floats = cut.sums ? cut.rows * cut.block_columns : 0;
  return cut;
}

/// Packs `count` columns of a k-major matrix (x[k * ld + i]) into panels of `Width`: out[panel][k][Width].
template <int Width, typename T>
void pack_k_major(const T* x, int64_t ld, int64_t count, int64_t depth, float* out) {
  for (int64_t k0 = 0; k0 < depth; k0 += kStream) {
    const int64_t k1 = smaller(k0 + kStream, depth);
    for (int64_t i = 0; i < count; i += Width) {
      float* panel = out + i * depth;
      int64_t k = k0;
      if (i + round_up(Width, kLanes) <= count) {
        // A store wider than the panel spills into its next row, which comes later; after the last row there is none.
        const int64_t end = Width % kLanes != 0 && k1 == depth ? k1 - 1 : k1;
        for (; k < end; ++k)
          for (int w = 0; w < Width; w += kLanes) store(panel + k * Width + w, load(x + k * ld + i + w));
      }
      for (; k < k1; ++k)
        for (int w = 0; w < Width; ++w) panel[k * Width + w] = i + w < count ? to_float(x[k * ld + i + w]) : 0.0f;
    }
  }
}

/// The same from a matrix whose rows run along k (x[i * ld + k]); rows past the end repeat the last one.
template <int Width, typename T>
void pack_rows(const T* x, int64_t ld, int64_t count, int64_t depth, float* out) {
  for (int64_t i = 0; i < count; i += Width) {
    for (int w = 0; w < Width; w += kLanes) {
      const T* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = x + smaller<int64_t>(i + w + r, count - 1) * ld;
      interleave_rows(rows, depth, out + i * depth + w, Width);
    }
  }
}

/// Where the sums of a tile go.
template <typename T, typename C>
struct Sink {
  C* c;  // of this block
  int64_t ldc;
  float* sums;  // f32 sums over blocks of k when C is narrower
  int64_t ld_sums;
  const T* bias;     // of this block's columns, or null; only in the last block of k
  bool first, last;  // block of k
  bool accumulate;
};

template <typename T, typename C>
[[gnu::always_inline]] inline void finish_full(const Tile<kPanelRows, kTileVectors>& tile, const Sink<T, C>& sink,
                                               int64_t row, int64_t column) {
  constexpr bool direct = sizeof(C) == sizeof(float);
  C* c = sink.c + row * sink.ldc + column;
  float* sums = sink.sums + row * sink.ld_sums + column;
  const bool add_c = direct ? !sink.first || sink.accumulate : sink.last && sink.accumulate;
#pragma GCC unroll 4
  for (int v = 0; v < kTileVectors; ++v) {
    const F bias = sink.bias ? load(sink.bias + column + v * kLanes) : F{};
#pragma GCC unroll 16
    for (int i = 0; i < kPanelRows; ++i) {
      F x = tile.acc[i][v] + bias;
      C* to = c + i * sink.ldc + v * kLanes;
      if (add_c) x += load(to);
      if constexpr (!direct) {
        float* sum = sums + i * sink.ld_sums + v * kLanes;
        if (!sink.first) x += load(sum);
        if (!sink.last) {
          store(sum, x);
          continue;
        }
      }
      store(to, x);
    }
  }
}

/// At the lower and right edge of C.
template <typename T, typename C>
[[gnu::noinline]] void finish_edge(const float* tile, const Sink<T, C>& sink, int64_t row, int64_t column, int64_t rows,
                                   int64_t columns) {
  constexpr bool direct = sizeof(C) == sizeof(float);
  const bool add_c = direct ? !sink.first || sink.accumulate : sink.last && sink.accumulate;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      float x = tile[i * kTileColumns + j];
      if (sink.bias) x += to_float(sink.bias[column + j]);
      C* to = sink.c + (row + i) * sink.ldc + column + j;
      if (add_c) x += to_float(*to);
      if constexpr (!direct) {
        float* sum = sink.sums + (row + i) * sink.ld_sums + column + j;
        if (!sink.first) x += *sum;
        if (!sink.last) {
          *sum = x;
          continue;
        }
      }
      store_one(to, x);
    }
}

template <typename T, typename C>
void multiply_block(const float* a, const float* b, int64_t rows, int64_t columns, int64_t depth,
                    const Sink<T, C>& sink) {
  for (int64_t j = 0; j < columns; j += kTileColumns)
    for (int64_t i = 0; i < rows; i += kPanelRows) {
      Tile<kPanelRows, kTileVectors> tile;
      tile_product<kPanelRows, kTileVectors, true>(tile, depth, a + i * depth, kPanelRows, b + j * depth, kTileColumns);
      if (i + kPanelRows <= rows && j + kTileColumns <= columns) {
        finish_full(tile, sink, i, j);
      } else {
        alignas(64) float edge[kPanelRows * kTileColumns];
#pragma GCC unroll 16
        for (int r = 0; r < kPanelRows; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < kTileVectors; ++v) store(edge + r * kTileColumns + v * kLanes, tile.acc[r][v]);
        finish_edge(edge, sink, i, j, smaller<int64_t>(kPanelRows, rows - i),
                    smaller<int64_t>(kTileColumns, columns - j));
      }
    }
}

/// Rows [row, row + rows) and columns [column, column + columns) of C.
template <typename T, typename C>
void multiply_part(const MatmulShape& s, const MatmulArgs& args, const Cut& cut, int64_t row, int64_t rows,
                   int64_t column, int64_t columns, float* scratch) {
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const T* bias = s.bias ? static_cast<const T*>(args.bias) : nullptr;
  float* packed_a = scratch;
  float* packed_b = packed_a + cut.a_floats;
  float* sums = packed_b + cut.b_floats;
  for (int64_t j = column; j < column + columns; j += cut.block_columns) {
    const int64_t width = smaller(cut.block_columns, column + columns - j);
    int64_t k = 0;
    do {
      const int64_t depth = smaller(cut.depth, s.k - k);
      if (s.transpose_b)
        pack_rows<kTileColumns>(b + j * s.k + k, s.k, width, depth, packed_b);
      else
        pack_k_major<kTileColumns>(b + k * s.n + j, s.n, width, depth, packed_b);
      for (int64_t i = row; i < row + rows; i += cut.block_rows) {
        const int64_t height = smaller(cut.block_rows, row + rows - i);
        if (s.transpose_a)
          pack_k_major<kPanelRows>(a + k * s.m + i, s.m, height, depth, packed_a);
        else
          pack_rows<kPanelRows>(a + i * s.k + k, s.k, height, depth, packed_a);
        const bool last = k + depth >= s.k;
        const Sink<T, C> sink{static_cast<C*>(args.c) + i * s.n + j,
                              s.n,
                              sums + (i - row) * cut.block_columns,
                              cut.block_columns,
                              bias && last ? bias + j : nullptr,
                              k == 0,
                              last,
                              args.accumulate};
        multiply_block(packed_a, packed_b, height, width, depth, sink);
      }
      k += cut.depth;
    } while (k < s.k);
  }
}

/// Rows x Columns dot products along k, both sides contiguous in k: B is read once and never packed.
template <int Rows, int Columns, typename T, typename C>
[[gnu::always_inline]] inline void dot_tile(const MatmulShape& s, const MatmulArgs& args, int64_t row, int64_t column) {
  const T* a = static_cast<const T*>(args.a) + row * s.k;
  const T* b = static_cast<const T*>(args.b) + column * s.k;
  F acc[Rows][Columns] = {};
  int64_t k = 0;
  for (; k + kLanes <= s.k; k += kLanes) {
    F left[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) left[i] = load(a + i * s.k + k);
#pragma GCC unroll 4
    for (int j = 0; j < Columns; ++j) {
      const F right = load(b + j * s.k + k);
      if (row == 0) __builtin_prefetch(b + (j + Columns) * s.k + k);  // B comes from memory, a short row at a time
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) acc[i][j] = fma(left[i], right, acc[i][j]);
    }
  }
  C* c = static_cast<C*>(args.c);
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) {
      float sum = sum_lanes(acc[i][j]);
      for (int64_t tail = k; tail < s.k; ++tail) sum += to_float(a[i * s.k + tail]) * to_float(b[j * s.k + tail]);
      if (s.bias) sum += to_float(static_cast<const T*>(args.bias)[column + j]);
      C* to = c + (row + i) * s.n + column + j;
      store_one(to, args.accumulate ? sum + to_float(*to) : sum);
    }
}

template <int Columns, typename T, typename C>
void dot_rows(const MatmulShape& s, const MatmulArgs& args, int64_t column) {
  int64_t i = 0;
  for (; i + 3 <= s.m; i += 3) dot_tile<3, Columns, T, C>(s, args, i, column);
  if (i + 2 == s.m) dot_tile<2, Columns, T, C>(s, args, i, column);
  if (i + 1 == s.m) dot_tile<1, Columns, T, C>(s, args, i, column);
}

template <typename T, typename C>
void run_thread(const MatmulShape& s, const MatmulArgs& args, const Cut& cut, int threads, int thread, float* scratch) {
  if (few_rows(s)) {
    const int64_t share = round_up(blocks_of(s.n, threads), 4);
    const int64_t end = smaller(s.n, share * (thread + 1));
    int64_t j = share * thread;
    for (; j + 4 <= end; j += 4) dot_rows<4, T, C>(s, args, j);
    for (; j < end; ++j) dot_rows<1, T, C>(s, args, j);
    return;
  }
  if (thread >= cut.row_parts * cut.column_parts) return;
  const int64_t row = cut.rows * (thread % cut.row_parts), column = cut.columns * (thread / cut.row_parts);
  const int64_t rows = smaller(cut.rows, s.m - row), columns = smaller(cut.columns, s.n - column);
  if (rows > 0 && columns > 0)
    multiply_part<T, C>(s, args, cut, row, rows, column, columns, scratch + thread * cut.thread_floats());
}

size_t gemm_scratch_bytes(const MatmulShape& s, int threads) {
  if (few_rows(s) || s.m == 0 || s.n == 0) return 0;
  return static_cast<size_t>(cut_of(s, threads).thread_floats()) * sizeof(float) * static_cast<size_t>(threads);
}

void gemm(const MatmulShape& s, const MatmulArgs& args, int threads, void* scratch) {
  if (s.m == 0 || s.n == 0) return;
  const Cut cut = few_rows(s) ? Cut{} : cut_of(s, threads);
  float* floats = static_cast<float*>(scratch);
#pragma omp parallel num_threads(threads)
  for (int t = omp_get_thread_num(); t < threads; t += omp_get_num_threads()) {
    if (s.a == DType::f32)
      run_thread<float, float>(s, args, cut, threads, t, floats);
    else if (s.c == DType::f32)
      run_thread<Bf16, float>(s, args, cut, threads, t, floats);
    else
      run_thread<Bf16, Bf16>(s, args, cut, threads, t, floats);
  }
}

}  // namespace

GemmKernels gemm_kernels() { return {gemm_scratch_bytes, gemm}; }

}  // namespace capstan::kernels::CAPSTAN_ISA
