// Rotary embedding. The host forms the frequencies in double; a block forms the angles of some rows in double, brings
// them into one turn, and keeps sines and cosines in shared memory for all heads of these rows.

#include "kernels/rotary.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/element.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kPairs = 256;  ///< pairs of a launch: wider heads take several

/// Frequencies of pairs [first, first + count).
struct Waves {
  int first, count;
  double frequency[kPairs];
};

/// Sine and cosine of an angle in double, each within two units of the last place of a float.
__device__ inline void sine_cosine(double angle, float amplitude, float& sine, float& cosine) {
  constexpr double kTurn = 6.283185307179586477, kTurnLow = 2.4492935982947064e-16;
  const double turns = rint(angle / kTurn);
  const double rest = fma(-turns, kTurnLow, fma(-turns, kTurn, angle));
  const auto high = static_cast<float>(rest);
  const auto low = static_cast<float>(rest - static_cast<double>(high));
  const float s = sinf(high), c = cosf(high);
  sine = amplitude * fmaf(low, c, s);
  cosine = amplitude * fmaf(-low, s, c);
}

/// Turns unit u of a head: N neighbours of each half, or N/2 pairs of neighbours (one pair when N is 1).
template <int N, typename T>
__device__ void turn_unit(const RotaryArgs& a, const Waves& waves, const T* x, T* y, int u, const float* cosine,
                          const float* sine) {
  if (a.interleaved) {
    constexpr int kEach = N == 1 ? 2 : N;
    const int pair = u * kEach / 2;
    const int64_t at = 2 * (waves.first + pair);
    float v[kEach];
    if constexpr (N == 1) {  // of any alignment
      v[0] = to_float(x[at]), v[1] = to_float(x[at + 1]);
    } else {
      load_pack(x + at, v);
    }
#pragma unroll
    for (int j = 0; j < kEach; j += 2) {
      const float c = cosine[pair + j / 2], s = sine[pair + j / 2], first = v[j], second = v[j + 1];
      v[j] = first * c - second * s;
      v[j + 1] = first * s + second * c;
    }
    if constexpr (N == 1) {
      from_float(y[at], v[0]), from_float(y[at + 1], v[1]);
    } else {
      store_pack(y + at, v);
    }
    return;
  }
  float v[N], w[N];
  const int64_t at = waves.first + u * N, half = a.rotary_dims / 2;
  load_pack(x + at, v);
  load_pack(x + at + half, w);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float c = cosine[u * N + j], s = sine[u * N + j], first = v[j], second = w[j];
    v[j] = first * c - second * s;
    w[j] = first * s + second * c;
  }
  store_pack(y + at, v);
  store_pack(y + at + half, w);
}

template <typename T, int N>
__global__ void __launch_bounds__(kBlock) rotary_kernel(RotaryArgs a, Waves waves, int rows_each) {
  CAPSTAN_SHARED_MEMORY(shared);
  auto* cosine = reinterpret_cast<float*>(shared);
  float* sine = cosine + rows_each * waves.count;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * rows_each;
  const int rows = static_cast<int>(a.rows - first_row < rows_each ? a.rows - first_row : rows_each);
  const auto amplitude = static_cast<float>(a.scale.amplitude);
  for (int i = static_cast<int>(threadIdx.x); i < rows * waves.count; i += kBlock) {
    const double angle = a.positions[first_row + i / waves.count] * waves.frequency[i % waves.count];
    sine_cosine(a.backward ? -angle : angle, amplitude, sine[i], cosine[i]);
  }
  __syncthreads();
  // A row of work: the units of all heads, and in the first launch the dims of each head that are passed on unchanged.
  const int per_unit = a.interleaved && N > 1 ? N / 2 : N, units = waves.count / per_unit;
  const int rest = waves.first == 0 ? static_cast<int>(a.head_size - a.rotary_dims) / N : 0, each = units + rest;
  const int heads = static_cast<int>(a.heads);
  for (int i = static_cast<int>(threadIdx.x); i < rows * heads * each; i += kBlock) {
    const int u = i % each, head = i / each % heads, row = i / each / heads;
    const int64_t at = (first_row + row) * a.stride + head * a.head_size;
    const T* x = static_cast<const T*>(a.x) + at;
    T* y = static_cast<T*>(a.y) + at;
    if (u < units) {
      turn_unit<N>(a, waves, x, y, u, cosine + row * waves.count, sine + row * waves.count);
    } else {
      float v[N];
      load_pack(x + a.rotary_dims + (u - units) * N, v);
      store_pack(y + a.rotary_dims + (u - units) * N, v);
    }
  }
}

/// Whether packs of N never straddle a head, its halves or a row.
template <typename T>
bool in_packs(const RotaryArgs& a) {
  constexpr int64_t kN = kPack<T>;
  const int64_t unit = a.interleaved ? a.rotary_dims : a.rotary_dims / 2;
  return aligned({a.x, a.y}) && a.head_size % kN == 0 && a.stride % kN == 0 && unit % kN == 0;
}

template <typename T, int N>
void run_rotary(const RotaryArgs& a, const Waves& waves) {
  const int rows_each = std::max(1, kBlock / std::max(1, waves.count));
  const auto blocks = static_cast<unsigned>(divided_up(a.rows, rows_each));
  const size_t shared = 2 * sizeof(float) * static_cast<size_t>(rows_each * waves.count);
  launch(rotary_kernel<T, N>, dim3(blocks), dim3(kBlock), shared, a.stream, a, waves, rows_each);
}

}  // namespace

void rotary(const RotaryArgs& args) {
  if (args.rows <= 0) return;
  with_element(args.dtype, "rotary", [&]<typename T>(T) {
    const int64_t pairs = args.rotary_dims / 2;
    Waves waves{};
    do {
      waves.count = static_cast<int>(std::min<int64_t>(pairs - waves.first, kPairs));
      for (int i = 0; i < waves.count; ++i) waves.frequency[i] = args.frequency(waves.first + i);
      if (in_packs<T>(args)) {
        run_rotary<T, kPack<T>>(args, waves);
      } else {
        run_rotary<T, 1>(args, waves);
      }
      waves.first += waves.count;
    } while (waves.first < pairs);
  });
}

}  // namespace capstan::kernels::cuda
