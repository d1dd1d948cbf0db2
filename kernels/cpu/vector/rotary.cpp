// Rotary embedding: the sines and cosines of a row are made once, in double, for all its heads.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/math.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kPairs = 256;  ///< pairs of a pass: wider heads are done in several

struct Waves {
  double frequency[kPairs];
};

/// Sines (negated for the inverse rotation) and cosines of the pairs of one row.
struct Rotation {
  alignas(64) float cosine[kPairs], sine[kPairs];
  alignas(64) float twice_cosine[2 * kPairs], signed_sine[2 * kPairs];  // for pairs (2i, 2i + 1)

  void fill(const Waves& waves, int64_t pairs, double position, bool inverse, double amplitude) {
    for (int64_t i = 0; i < pairs; i += kLanes / 2) {
      D frequency;
      __builtin_memcpy(&frequency, waves.frequency + i, sizeof frequency);
      const SineCosine both = sine_cosine(frequency * position);
      const D cosines = both.cosine * amplitude, sines = both.sine * (inverse ? -amplitude : amplitude);
      const HalfF c = __builtin_convertvector(cosines, HalfF);
      const HalfF s = __builtin_convertvector(sines, HalfF);
      __builtin_memcpy(cosine + i, &c, sizeof c);
      __builtin_memcpy(sine + i, &s, sizeof s);
    }
  }

  void interleave(int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
      twice_cosine[2 * i] = twice_cosine[2 * i + 1] = cosine[i];
      signed_sine[2 * i] = -sine[i];
      signed_sine[2 * i + 1] = sine[i];
    }
  }
};

template <class T>
void turn_halves(const T* x, T* y, int64_t half, int64_t pairs, const Rotation& rotation) {
  each_vector(
      0, pairs, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        const F a = load(x + i, lanes), b = load(x + half + i, lanes);
        const F c = load(rotation.cosine + i), s = load(rotation.sine + i);
        store(y + i, fma(a, c, -(b * s)), lanes);
        store(y + half + i, fma(b, c, a * s), lanes);
      });
}

template <class T>
void turn_neighbours(const T* x, T* y, int64_t pairs, const Rotation& rotation) {
  each_vector(
      0, 2 * pairs, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        const F v = load(x + i, lanes);
        store(y + i, fma(v, load(rotation.twice_cosine + i), swap_pairs(v) * load(rotation.signed_sine + i)), lanes);
      });
}

/// Pairs [first, first + pairs) of all rows.
template <class T>
void turn(const RotaryArgs& a, int64_t first, int64_t pairs) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t half = a.rotary_dims / 2;
  Waves waves{};
  for (int64_t i = 0; i < pairs; ++i) {
    waves.frequency[i] = a.frequency(first + i);
  }
  const int64_t bytes = 4 * a.rows * a.heads * pairs * static_cast<int64_t>(sizeof(T)) + 32 * a.rows * pairs;
  parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
    Rotation rotation;
    for (int64_t r = begin; r < end; ++r) {
      rotation.fill(waves, pairs, static_cast<double>(a.positions[r]), a.backward, a.scale.amplitude);
      if (a.interleaved) rotation.interleave(pairs);
      for (int64_t h = 0; h < a.heads; ++h) {
        const int64_t at = r * a.stride + h * a.head_size;
        if (a.interleaved) {
          turn_neighbours(x + at + 2 * first, y + at + 2 * first, pairs, rotation);
        } else {
          turn_halves(x + at + first, y + at + first, half, pairs, rotation);
        }
      }
    }
  });
}

/// Dims beyond rotary_dims pass unchanged.
template <class T>
void copy_rest(const RotaryArgs& a) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(a.head_size - a.rotary_dims);
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t at = r * a.stride + h * a.head_size + a.rotary_dims;
      __builtin_memcpy(static_cast<T*>(a.y) + at, static_cast<const T*>(a.x) + at, bytes);
    }
  }
}

}  // namespace

void rotary(const RotaryArgs& args) {
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t first = 0; first < args.rotary_dims / 2; first += kPairs) {
      const int64_t left = args.rotary_dims / 2 - first;
      turn<T>(args, first, left < kPairs ? left : kPairs);
    }
    if (args.x != args.y && args.rotary_dims < args.head_size) copy_rest<T>(args);
  });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
