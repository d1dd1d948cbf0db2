// Layer and RMS norm. A group of warps works on a row and holds it in registers (what does not fit is read again), so
// that memory is read once. The backward gives each group a fixed set of rows; it keeps its share of dweight and dbias
// in registers (what does not fit, in its slice of the scratch) and writes them once; the slices are then added up.

#include "kernels/norm.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kNormThreads = 512;
constexpr int kForwardHeld = 4, kBackwardHeld = 2;  ///< packs of a row that a thread holds

/// f(k, i) for this thread's packs of a row, i the first element: k-th of the held ones, or `kHeld` for all others.
template <int kHeld, int N, typename F>
__device__ void each_of_row(int64_t width, int threads, F f) {
  const int packs = static_cast<int>(width / N), t = static_cast<int>(threadIdx.x) % threads;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (t + k * threads < packs) f(k, (t + k * threads) * N);
  }
  for (int p = t + kHeld * threads; p < packs; p += threads) f(kHeld, p * N);
}

/// x + residual of a pack, rounded and written to sum; x alone when there is no residual.
template <int N, typename T>
__device__ void load_sum(const T* x, const T* residual, T* sum, float (&s)[N]) {
  load_pack(x, s);
  if (residual == nullptr) return;
  float other[N];
  load_pack(residual, other);
#pragma unroll
  for (int j = 0; j < N; ++j) s[j] = as_stored<T>(s[j] + other[j]);  // the backward reads what is stored
  store_pack(sum, s);
}

template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(NormArgs a, int threads) {
  __shared__ float shared[kMostWarps];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / threads) + threadIdx.x / threads;
  const int64_t width = row < a.rows ? a.width : 0, at = row < a.rows ? row * a.width : 0;
  const bool summed = a.residual != nullptr;
  const T* x = static_cast<const T*>(a.x) + at;
  const T* residual = summed ? static_cast<const T*>(a.residual) + at : nullptr;
  T* sum = summed ? static_cast<T*>(a.sum) + at : nullptr;
  const T* s = summed ? sum : x;  // for packs that are not held: this thread wrote them
  float held[kForwardHeld + 1][N];

  float total = 0, squares = 0;
  each_of_row<kForwardHeld, N>(width, threads, [&](int k, int i) {
    load_sum(x + i, summed ? residual + i : nullptr, summed ? sum + i : nullptr, held[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) total += held[k][j];
  });
  const float mean = a.rms ? 0.0f : group_sum(total, threads, shared) / static_cast<float>(a.width);
  each_of_row<kForwardHeld, N>(width, threads, [&](int k, int i) {
    if (k == kForwardHeld) load_pack(s + i, held[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += (held[k][j] - mean) * (held[k][j] - mean);
  });
  const float variance = group_sum(squares, threads, shared) / static_cast<float>(a.width);
  const float rstd = 1.0f / sqrtf(variance + static_cast<float>(a.epsilon));
  each_of_row<kForwardHeld, N>(width, threads, [&](int k, int i) {
    if (k == kForwardHeld) load_pack(s + i, held[k]);
    float w[N], b[N];
    load_pack(static_cast<const T*>(a.weight) + i, w);
    if (a.bias != nullptr) load_pack(static_cast<const T*>(a.bias) + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float y = (held[k][j] - mean) * rstd * w[j];
      w[j] = a.bias != nullptr ? y + b[j] : y;
    }
    store_pack(static_cast<T*>(a.y) + at + i, w);
  });
  if (width > 0 && threadIdx.x % threads == 0) {
    if (!a.rms) static_cast<float*>(a.mean)[row] = mean;
    static_cast<float*>(a.rstd)[row] = rstd;
  }
}

/// Sums of one group over its rows, by column: held in registers, or added to in the group's slices of the scratch.
template <int N>
struct ColumnSums {
  float held[kBackwardHeld][N];
  float* slice;  ///< null: not wanted

  __device__ void start(int64_t width, int threads) {
    if (slice == nullptr) return;
    each_of_row<kBackwardHeld, N>(width, threads, [&](int k, int i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (k < kBackwardHeld) {
          held[k][j] = 0;
        } else {
          slice[i + j] = 0;
        }
      }
    });
  }
  __device__ void add(int k, int i, int j, float v) {
    if (slice == nullptr) return;
    if (k < kBackwardHeld) {
      held[k][j] += v;
    } else {
      slice[i + j] += v;
    }
  }
  __device__ void finish(int64_t width, int threads) {
    if (slice == nullptr) return;
    each_of_row<kBackwardHeld, N>(width, threads, [&](int k, int i) {
      if (k < kBackwardHeld) store_pack(slice + i, held[k]);
    });
  }
};

/// dy and s of a pack as they lie in memory: half the registers of floats.
template <typename T, int N>
struct NormPack {
  Pack<T, N> dy, s;

  __device__ void load(const NormBackwardArgs& a, int64_t at) {
    dy = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(a.dy) + at);
    s = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(a.s) + at);
  }
  /// f(j, dy, g, n) for each element; g = dy w.
  template <typename F>
  __device__ void each(const NormBackwardArgs& a, int i, float mean, float rstd, F f) const {
    float w[N];
    load_pack(static_cast<const T*>(a.weight) + i, w);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float gradient = to_float(dy.at[j]);
      f(j, gradient, gradient * w[j], (to_float(s.at[j]) - mean) * rstd);
    }
  }
};

template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads) norm_backward_kernel(NormBackwardArgs a, int threads, int64_t slices) {
  __shared__ float shared[kMostWarps];
  const int64_t slice = static_cast<int64_t>(blockIdx.x) * (blockDim.x / threads) + threadIdx.x / threads;
  const bool mine = slice < slices;
  float* partials = static_cast<float*>(a.scratch);
  ColumnSums<N> dweight, dbias;
  dweight.slice = mine && a.dweight != nullptr ? partials + slice * a.width : nullptr;
  dbias.slice = mine && a.dbias != nullptr ? partials + (slices + slice) * a.width : nullptr;
  dweight.start(a.width, threads);
  dbias.start(a.width, threads);

  for (int64_t first = 0; first < a.rows; first += slices) {  // all groups of the block together, for the sums
    const int64_t row = first + slice;
    const bool here = mine && row < a.rows;
    const int64_t width = here ? a.width : 0, at = here ? row * a.width : 0;
    const float rstd = here ? static_cast<const float*>(a.rstd)[row] : 0.0f;
    const float mean = here && !a.rms ? static_cast<const float*>(a.mean)[row] : 0.0f;
    NormPack<T, N> held[kBackwardHeld + 1];
    float sum_g = 0, sum_gn = 0;
    each_of_row<kBackwardHeld, N>(width, threads, [&](int k, int i) {
      NormPack<T, N>& pack = held[k];
      pack.load(a, at + i);
      pack.each(a, i, mean, rstd, [&](int j, float dy, float g, float n) {
        sum_g += g;
        sum_gn += g * n;
        dweight.add(k, i, j, dy * n);
        dbias.add(k, i, j, dy);
      });
    });
    const float mean_gn = group_sum(sum_gn, threads, shared) / static_cast<float>(a.width);
    const float mean_g = a.rms ? 0.0f : group_sum(sum_g, threads, shared) / static_cast<float>(a.width);
    each_of_row<kBackwardHeld, N>(width, threads, [&](int k, int i) {
      NormPack<T, N>& pack = held[k];
      if (k == kBackwardHeld) pack.load(a, at + i);  // before ds, which may be dy, is written
      float ds[N], dsum[N];
      if (a.dsum != nullptr) load_pack(static_cast<const T*>(a.dsum) + at + i, dsum);
      pack.each(a, i, mean, rstd, [&](int j, float, float g, float n) {
        const float value = rstd * (g - mean_g - n * mean_gn);
        ds[j] = a.dsum != nullptr ? value + dsum[j] : value;
      });
      store_pack(static_cast<T*>(a.ds) + at + i, ds);
    });
  }
  dweight.finish(a.width, threads);
  dbias.finish(a.width, threads);
}

template <typename T, int N>
void run_norm(const NormArgs& a) {
  const RowGroups groups = row_groups(a.width / N, kForwardHeld, kNormThreads);
  const auto blocks = static_cast<unsigned>(divided_up(a.rows, groups.rows));
  launch(norm_kernel<T, N>, blocks, groups.block(), 0, a.stream, a, groups.threads);
}

/// Groups that walk the rows of a backward: enough to fill a device, few enough that their sums stay small.
int64_t norm_slices(int64_t rows, int64_t width) {
  return std::min(rows, std::clamp<int64_t>((int64_t{2} << 20) / std::max<int64_t>(width, 1), 256, 1024));
}

template <typename T, int N>
void run_norm_backward(const NormBackwardArgs& a) {
  const RowGroups groups = row_groups(a.width / N, kBackwardHeld, kNormThreads);
  const int64_t slices = norm_slices(a.rows, a.width);
  const auto blocks = static_cast<unsigned>(divided_up(slices, groups.rows));  // none: the sums become 0
  launch(norm_backward_kernel<T, N>, blocks, groups.block(), 0, a.stream, a, groups.threads, slices);
  const auto* partials = static_cast<const float*>(a.scratch);
  if (a.dweight) sum_slices(partials, static_cast<float*>(a.dweight), slices, a.width, a.accumulate, a.stream);
  if (a.dbias) {
    sum_slices(partials + slices * a.width, static_cast<float*>(a.dbias), slices, a.width, a.accumulate, a.stream);
  }
}

}  // namespace

void norm(const NormArgs& args) {
  if (args.rows <= 0 || args.width <= 0) return;
  with_element(args.dtype, "norm", [&]<typename T>(T) {
    if (args.width % kPack<T> == 0 && aligned({args.x, args.residual, args.sum, args.weight, args.bias, args.y})) {
      run_norm<T, kPack<T>>(args);
    } else {
      run_norm<T, 1>(args);
    }
  });
}

size_t norm_backward_scratch(int64_t rows, int64_t width, DType) {
  return static_cast<size_t>(2 * norm_slices(rows, width) * width) * sizeof(float);
}

void norm_backward(const NormBackwardArgs& args) {
  if (args.width <= 0) return;
  with_element(args.dtype, "norm_backward", [&]<typename T>(T) {
    if (args.width % kPack<T> == 0 && aligned({args.s, args.weight, args.dy, args.dsum, args.ds, args.scratch})) {
      run_norm_backward<T, kPack<T>>(args);
    } else {
      run_norm_backward<T, 1>(args);
    }
  });
}

}  // namespace capstan::kernels::cuda
