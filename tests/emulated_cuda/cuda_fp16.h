#pragma once
// half of CUDA: conversions only, rounded to nearest even with subnormals and infinities. Arithmetic on it is left out
// on purpose: sums are taken in float.

#include <bit>
#include <cmath>
#include <cstdint>

struct __half {
  unsigned short __x;
  __half() = default;
  __half(float v) {
    const uint32_t bits = std::bit_cast<uint32_t>(v);
    const unsigned sign = (bits >> 16) & 0x8000u;
    const float size = std::fabs(v);
    if (!(size <= 65519.996f)) {  // NaN, infinity, and what rounds to it: 65520 is half way to 65536
      __x = static_cast<unsigned short>(v != v ? 0x7fffu : sign | 0x7c00u);
    } else if (size < 0x1p-14f) {  // multiples of 2^-24
      __x = static_cast<unsigned short>(sign | static_cast<unsigned>(std::nearbyint(size * 0x1p24f)));
    } else {
      const uint32_t u = bits & 0x7fffffffu;
      __x = static_cast<unsigned short>(sign | ((u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13));
    }
  }
  operator float() const {
    const unsigned exponent = (__x >> 10) & 31u, mantissa = __x & 1023u;
    const float size = exponent == 31  ? (mantissa ? std::bit_cast<float>(0x7fffffffu) : INFINITY)
                       : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f
                                       : std::bit_cast<float>(((exponent + 112u) << 23) | (mantissa << 13));
    return __x & 0x8000u ? -size : size;
  }
};
using half = __half;
struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

__half operator+(__half, __half) = delete;
__half operator-(__half, __half) = delete;
__half operator*(__half, __half) = delete;
__half operator/(__half, __half) = delete;

inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline float __half2float(__half v) { return static_cast<float>(v); }
inline unsigned short __half_as_ushort(__half v) { return v.__x; }
inline __half __ushort_as_half(unsigned short bits) { return std::bit_cast<__half>(bits); }
inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
