#pragma once
// Rotary position embedding (Su et al., "RoFormer", 2021) on the first `rotary_dims` dims of each head:
//   (a, b) -> m (a cos t - b sin t, a sin t + b cos t),  t = position frequency(i), pair i, m the amplitude
// pairs are (i, i + rotary_dims/2) (half-split) or (2i, 2i+1) (interleaved). backward: the transpose, which turns back.
// frequency(i) = base^(-2i / rotary_dims), scaled for contexts longer than those trained on:
//   linear   f / factor (Chen et al., 2023)
//   llama3   by wavelength w = 2 pi / f and the old context c: f where w < c / high, f / factor where w > c / low,
//            between them (1 - s) f / factor + s f, s = (c / w - low) / (high - low)
//   yarn     (Peng et al., 2023) r f / factor + (1 - r) f, r = (i - first) / (last - first) within [0, 1];
//            first and last are the pairs that turn `high` and `low` times over c
// Angles are formed in double and rounded once, so that long positions stay exact.

#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/types.h"

namespace capstan::kernels {

struct RotaryScale {
  enum class Kind : uint8_t { none, linear, llama3, yarn };
  Kind kind = Kind::none;
  double factor = 1.0;
  double low = 1.0, high = 4.0;
  double context = 0.0;    ///< that was trained on
  double amplitude = 1.0;  ///< yarn sharpens scores by it

  // Inlined whatever the options: this header is compiled for several instruction sets.
  [[gnu::always_inline]] double scaled(double frequency, int64_t pair, int64_t dims, double base) const {
    if (kind == Kind::none) return frequency;
    const double slow = frequency / factor;
    if (kind == Kind::linear) return slow;
    if (kind == Kind::yarn) {
      const double first = std::floor(pair_that_turns(high, dims, base)),
                   last = std::ceil(pair_that_turns(low, dims, base));
      const double begin = std::fmax(first, 0.0), end = std::fmin(last, static_cast<double>(dims) - 1.0);
      const double ramp = (static_cast<double>(pair) - begin) / (end == begin ? 0.001 : end - begin);
      const double share = std::fmin(1.0, std::fmax(0.0, ramp));
      return share * slow + (1.0 - share) * frequency;
    }
    const double turns = context * frequency / (2.0 * std::numbers::pi);  // context / wavelength
    if (turns > high) return frequency;
    if (turns < low) return slow;
    const double share = (turns - low) / (high - low);
    return (1.0 - share) * slow + share * frequency;
  }
  /// The pair, as a real number, that turns so many times over the context.
  [[gnu::always_inline]] double pair_that_turns(double times, int64_t dims, double base) const {
    return static_cast<double>(dims) * std::log(context / (times * 2.0 * std::numbers::pi)) / (2.0 * std::log(base));
  }
};

struct RotaryArgs {
  const int32_t* positions = nullptr;  ///< [rows]
  const void* x = nullptr;             ///< [rows, heads, head_size], rows `stride` elements apart
  void* y = nullptr;                   ///< may be x; same stride
  int64_t rows = 0, heads = 0, head_size = 0, rotary_dims = 0, stride = 0;
  double base = 10000.0;
  RotaryScale scale;
  bool interleaved = false;
  bool backward = false;
  DType dtype = DType::f32;
  Stream stream = nullptr;

  [[gnu::always_inline]] double frequency(int64_t pair) const {
    const double exponent = 2.0 * static_cast<double>(pair) / static_cast<double>(rotary_dims);
    return scale.scaled(1.0 / std::pow(base, exponent), pair, rotary_dims, base);
  }
};

}  // namespace capstan::kernels
