#pragma once
// Vectors of one instruction set. Every file of this folder is compiled once per set, with CAPSTAN_ISA naming both
// the -march and the namespace, so that code of one set can never be merged with that of another by the linker. The
// clever thing is that a partial vector at the end of an array runs the very instructions of a full one (`Part`
// instead of `Full`), and products are fused only where `fma` says so: the result for an element does not depend on
// where in the array it stands. The rule for this folder: no standard library templates and no inline functions of
// shared headers (both would be emitted as weak symbols outside the namespace); they are why the converters for
// bfloat16 and the generator of random words are written again here.

#include <immintrin.h>

#include <cstdint>

namespace capstan::kernels::CAPSTAN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;

using F = float __attribute__((vector_size(kVectorBytes)));
using I = int32_t __attribute__((vector_size(kVectorBytes)));
using U = uint32_t __attribute__((vector_size(kVectorBytes)));
using D = double __attribute__((vector_size(kVectorBytes)));
using U64 = uint64_t __attribute__((vector_size(kVectorBytes)));
using HalfF = float __attribute__((vector_size(kVectorBytes / 2)));  ///< as many floats as D has doubles

/// Element type bfloat16 of this namespace.
struct Bf16 {
  uint16_t bits;
};

struct Full {
  static constexpr int count = kLanes;
};
struct Part {
  int count;  ///< 1 .. kLanes - 1
};
/// Two vectors whose instructions alternate: long chains of them (polynomials) wait half as long for each other. Which
/// element stands in which lane depends on the element type, so a body must not mix types under Twice.
struct F2 {
  F a, b;
};
struct Twice {
  static constexpr int count = 2 * kLanes;
};

[[gnu::always_inline]] inline F splat(float v) { return v - F{}; }
[[gnu::always_inline]] inline D splat_double(double v) { return v - D{}; }

/// 0, 1, 2, ... in ascending lanes.
[[gnu::always_inline]] inline I lane_numbers() {
  I v;
  for (int j = 0; j < kLanes; ++j) v[j] = j;
  return v;
}

/// Copies the elements of a partial vector without a call.
template <int kBytes>
[[gnu::always_inline]] inline void copy_part(void* to, const void* from, Part part) {
  char* t = static_cast<char*>(to);
  const char* f = static_cast<const char*>(from);
  if (part.count & 4) {
    __builtin_memcpy(t, f, 4 * kBytes);
    t += 4 * kBytes;
    f += 4 * kBytes;
  }
  if (part.count & 2) {
    __builtin_memcpy(t, f, 2 * kBytes);
    t += 2 * kBytes;
    f += 2 * kBytes;
  }
  if (part.count & 1) __builtin_memcpy(t, f, kBytes);
}

// What the vector extensions of the compiler do not say, per instruction set. max and min return y when one is NaN.
#if defined(__AVX512F__)
[[gnu::always_inline]] inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
[[gnu::always_inline]] inline D fma(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
[[gnu::always_inline]] inline F max(F x, F y) { return _mm512_max_ps(x, y); }
[[gnu::always_inline]] inline F min(F x, F y) { return _mm512_min_ps(x, y); }
[[gnu::always_inline]] inline F sqrt(F x) { return _mm512_sqrt_ps(x); }
[[gnu::always_inline]] inline U max(U x, U y) { return (U)_mm512_max_epu32((__m512i)x, (__m512i)y); }
[[gnu::always_inline]] inline U64 multiply_low(U64 a, U64 b) { return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
[[gnu::always_inline]] inline U64 swap_halves(U64 x) { return (U64)_mm512_shuffle_epi32((__m512i)x, _MM_PERM_CDAB); }
[[gnu::always_inline]] inline U64 interleave_low(U64 a, U64 b) {
  return (U64)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
[[gnu::always_inline]] inline U64 interleave_high(U64 a, U64 b) {
  return (U64)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}
[[gnu::always_inline]] inline F swap_pairs(F x) { return _mm512_permute_ps(x, 0xB1); }
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p) {
  return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)v));
}
[[gnu::always_inline]] inline __m128 fold(F v) {
  const __m256 half =
      _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
[[gnu::always_inline]] inline __m128 fold_max(F v) {
  const __m256 half =
      _mm256_max_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
  return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
[[gnu::always_inline]] inline F load(const float* p, Part part) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.count) - 1), p);
}
[[gnu::always_inline]] inline void store(float* p, F v, Part part) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << part.count) - 1), v);
}
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p, Part part) {
  return (U)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << part.count) - 1), p));
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v, Part part) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << part.count) - 1), _mm512_cvtepi32_epi16((__m512i)v));
}
#elif defined(__AVX2__)
[[gnu::always_inline]] inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
[[gnu::always_inline]] inline D fma(D a, D b, D c) { return _mm256_fmadd_pd(a, b, c); }
[[gnu::always_inline]] inline F max(F x, F y) { return _mm256_max_ps(x, y); }
[[gnu::always_inline]] inline F min(F x, F y) { return _mm256_min_ps(x, y); }
[[gnu::always_inline]] inline F sqrt(F x) { return _mm256_sqrt_ps(x); }
[[gnu::always_inline]] inline U max(U x, U y) { return (U)_mm256_max_epu32((__m256i)x, (__m256i)y); }
[[gnu::always_inline]] inline U64 multiply_low(U64 a, U64 b) { return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
[[gnu::always_inline]] inline U64 swap_halves(U64 x) { return (U64)_mm256_shuffle_epi32((__m256i)x, 0xB1); }
[[gnu::always_inline]] inline U64 interleave_low(U64 a, U64 b) {
  return (U64)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
}
[[gnu::always_inline]] inline U64 interleave_high(U64 a, U64 b) {
  return (U64)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
}
[[gnu::always_inline]] inline F swap_pairs(F x) { return _mm256_permute_ps(x, 0xB1); }
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p) {
  return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v) {
  const __m256i w = (__m256i)v;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
[[gnu::always_inline]] inline __m128 fold(F v) {
  return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}
[[gnu::always_inline]] inline __m128 fold_max(F v) {
  return _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}
[[gnu::always_inline]] inline F load(const float* p, Part part) {
  return _mm256_maskload_ps(p, (__m256i)(lane_numbers() < part.count));
}
[[gnu::always_inline]] inline void store(float* p, F v, Part part) { copy_part<4>(p, &v, part); }
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p, Part part) {
  Bf16 lanes[kLanes] = {};
  copy_part<2>(lanes, p, part);
  return widen_bf16(lanes);
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v, Part part) {
  Bf16 lanes[kLanes];
  narrow_bf16(lanes, v);
  copy_part<2>(p, lanes, part);
}
#else
[[gnu::always_inline]] inline F fma(F a, F b, F c) { return a * b + c; }
[[gnu::always_inline]] inline D fma(D a, D b, D c) { return a * b + c; }
[[gnu::always_inline]] inline F max(F x, F y) { return _mm_max_ps(x, y); }
[[gnu::always_inline]] inline F min(F x, F y) { return _mm_min_ps(x, y); }
[[gnu::always_inline]] inline F sqrt(F x) { return _mm_sqrt_ps(x); }
[[gnu::always_inline]] inline U max(U x, U y) { return (U)_mm_max_epu32((__m128i)x, (__m128i)y); }
[[gnu::always_inline]] inline U64 multiply_low(U64 a, U64 b) { return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b); }
[[gnu::always_inline]] inline U64 swap_halves(U64 x) { return (U64)_mm_shuffle_epi32((__m128i)x, 0xB1); }
[[gnu::always_inline]] inline U64 interleave_low(U64 a, U64 b) {
  return (U64)_mm_unpacklo_epi64((__m128i)a, (__m128i)b);
}
[[gnu::always_inline]] inline U64 interleave_high(U64 a, U64 b) {
  return (U64)_mm_unpackhi_epi64((__m128i)a, (__m128i)b);
}
[[gnu::always_inline]] inline F swap_pairs(F x) { return _mm_shuffle_ps(x, x, 0xB1); }
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p) {
  return (U)_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32((__m128i)v, (__m128i)v));
}
[[gnu::always_inline]] inline __m128 fold(F v) { return v; }
[[gnu::always_inline]] inline __m128 fold_max(F v) { return v; }
[[gnu::always_inline]] inline F load(const float* p, Part part) {
  F v{};
  copy_part<4>(&v, p, part);
  return v;
}
[[gnu::always_inline]] inline void store(float* p, F v, Part part) { copy_part<4>(p, &v, part); }
[[gnu::always_inline]] inline U widen_bf16(const Bf16* p, Part part) {
  Bf16 lanes[kLanes] = {};
  copy_part<2>(lanes, p, part);
  return widen_bf16(lanes);
}
[[gnu::always_inline]] inline void narrow_bf16(Bf16* p, U v, Part part) {
  Bf16 lanes[kLanes];
  narrow_bf16(lanes, v);
  copy_part<2>(p, lanes, part);
}
#endif

/// Sum of all lanes, as a tree.
[[gnu::always_inline]] inline float sum_lanes(F v) {
  __m128 q = fold(v);
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

[[gnu::always_inline]] inline float max_lanes(F v) {
  __m128 q = fold_max(v);
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

[[gnu::always_inline]] inline double sum_lanes(D v) {
  double sum = 0;
  for (int j = 0; j < kLanes / 2; ++j) sum += v[j];
  return sum;
}

/// To nearest even, NaN kept quiet; the 16 bits stand high in each lane, what is below them does not count.
[[gnu::always_inline]] inline U round_bf16_high(F v) {
  const U u = (U)v;
  return v == v ? u + ((u >> 16) & 1u) + 0x7fffu : u | 0x400000u;
}
/// The same with the 16 bits low in each lane.
[[gnu::always_inline]] inline U round_bf16(F v) { return round_bf16_high(v) >> 16; }

[[gnu::always_inline]] inline F load(const float* p) {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline F load(const Bf16* p) { return (F)(widen_bf16(p) << 16); }
[[gnu::always_inline]] inline void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
[[gnu::always_inline]] inline void store(Bf16* p, F v) { narrow_bf16(p, round_bf16(v)); }

template <class T>
[[gnu::always_inline]] inline F load(const T* p, Full) {
  return load(p);
}
template <class T>
[[gnu::always_inline]] inline void store(T* p, F v, Full) {
  store(p, v);
}
/// Lanes past the end are 0.
[[gnu::always_inline]] inline F load(const Bf16* p, Part part) { return (F)(widen_bf16(p, part) << 16); }
[[gnu::always_inline]] inline void store(Bf16* p, F v, Part part) { narrow_bf16(p, round_bf16(v), part); }
[[gnu::always_inline]] inline F2 load(const float* p, Twice) { return {load(p), load(p + kLanes)}; }
[[gnu::always_inline]] inline void store(float* p, F2 v, Twice) {
  store(p, v.a);
  store(p + kLanes, v.b);
}
/// Even elements in a, odd ones in b: no lane has to move.
[[gnu::always_inline]] inline F2 load(const Bf16* p, Twice) {
  U pairs;
  __builtin_memcpy(&pairs, p, sizeof pairs);
  return {(F)(pairs << 16), (F)(pairs & 0xffff0000u)};
}
[[gnu::always_inline]] inline void store(Bf16* p, F2 v, Twice) {
  const U pairs = (round_bf16_high(v.a) >> 16) | (round_bf16_high(v.b) & 0xffff0000u);
  __builtin_memcpy(p, &pairs, sizeof pairs);
}

/// 0 in the lanes past the end.
[[gnu::always_inline]] inline F valid(F v, Full) { return v; }
[[gnu::always_inline]] inline F valid(F v, Part part) { return lane_numbers() < part.count ? v : F{}; }
/// `other` in the lanes past the end.
[[gnu::always_inline]] inline F valid_or(F v, float, Full) { return v; }
[[gnu::always_inline]] inline F valid_or(F v, float other, Part part) {
  return lane_numbers() < part.count ? v : splat(other);
}

/// The value that a store of v to a T and a load would give.
[[gnu::always_inline]] inline F rounded_to(F v, const float*) { return v; }
[[gnu::always_inline]] inline F rounded_to(F v, const Bf16*) { return (F)(round_bf16(v) << 16); }

[[gnu::always_inline]] inline float to_float(float v) { return v; }
[[gnu::always_inline]] inline float to_float(Bf16 v) {
  const uint32_t u = static_cast<uint32_t>(v.bits) << 16;
  float f;
  __builtin_memcpy(&f, &u, sizeof f);
  return f;
}
[[gnu::always_inline]] inline void store_one(float* p, float v) { *p = v; }
[[gnu::always_inline]] inline void store_one(Bf16* p, float v) {
  Bf16 lanes[kLanes];
  store(lanes, splat(v));
  *p = lanes[0];
}

/// The lower and upper half of the lanes as doubles.
[[gnu::always_inline]] inline D low_double(F v) {
  HalfF half;
  __builtin_memcpy(&half, &v, sizeof half);
  return __builtin_convertvector(half, D);
}
[[gnu::always_inline]] inline D high_double(F v) {
  HalfF half;
  __builtin_memcpy(&half, reinterpret_cast<const char*>(&v) + sizeof half, sizeof half);
  return __builtin_convertvector(half, D);
}

// The same names on one vector and on two, with constants as plain numbers: functions of math.h are written once.
[[gnu::always_inline]] inline F2 operator+(F2 x, F2 y) { return {x.a + y.a, x.b + y.b}; }
[[gnu::always_inline]] inline F2 operator-(F2 x, F2 y) { return {x.a - y.a, x.b - y.b}; }
[[gnu::always_inline]] inline F2 operator*(F2 x, F2 y) { return {x.a * y.a, x.b * y.b}; }
[[gnu::always_inline]] inline F2 operator/(F2 x, F2 y) { return {x.a / y.a, x.b / y.b}; }
[[gnu::always_inline]] inline F2 operator+(F2 x, float y) { return {x.a + y, x.b + y}; }
[[gnu::always_inline]] inline F2 operator-(F2 x, float y) { return {x.a - y, x.b - y}; }
[[gnu::always_inline]] inline F2 operator*(F2 x, float y) { return {x.a * y, x.b * y}; }
[[gnu::always_inline]] inline F2 operator-(float x, F2 y) { return {x - y.a, x - y.b}; }
[[gnu::always_inline]] inline F2 operator/(float x, F2 y) { return {x / y.a, x / y.b}; }
[[gnu::always_inline]] inline F2 operator-(F2 x) { return {-x.a, -x.b}; }
[[gnu::always_inline]] inline F2 fma(F2 x, F2 y, F2 z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
[[gnu::always_inline]] inline F fma(F x, float y, F z) { return fma(x, splat(y), z); }
[[gnu::always_inline]] inline F fma(F x, F y, float z) { return fma(x, y, splat(z)); }
[[gnu::always_inline]] inline F fma(F x, float y, float z) { return fma(x, splat(y), splat(z)); }
[[gnu::always_inline]] inline F2 fma(F2 x, float y, F2 z) { return {fma(x.a, y, z.a), fma(x.b, y, z.b)}; }
[[gnu::always_inline]] inline F2 fma(F2 x, F2 y, float z) { return {fma(x.a, y.a, z), fma(x.b, y.b, z)}; }
[[gnu::always_inline]] inline F2 fma(F2 x, float y, float z) { return {fma(x.a, y, z), fma(x.b, y, z)}; }
[[gnu::always_inline]] inline F max(float x, F y) { return max(splat(x), y); }
[[gnu::always_inline]] inline F min(float x, F y) { return min(splat(x), y); }
[[gnu::always_inline]] inline F2 max(float x, F2 y) { return {max(x, y.a), max(x, y.b)}; }
[[gnu::always_inline]] inline F2 min(float x, F2 y) { return {min(x, y.a), min(x, y.b)}; }
/// |x|
[[gnu::always_inline]] inline F magnitude(F x) { return (F)((U)x & 0x7fffffffu); }
[[gnu::always_inline]] inline F2 magnitude(F2 x) { return {magnitude(x.a), magnitude(x.b)}; }
/// x < limit ? y : z, lane by lane
[[gnu::always_inline]] inline F select_below(F x, float limit, F y, F z) { return x < limit ? y : z; }
[[gnu::always_inline]] inline F2 select_below(F2 x, float limit, F2 y, F2 z) {
  return {select_below(x.a, limit, y.a, z.a), select_below(x.b, limit, y.b, z.b)};
}
/// x > limit ? y : 0
[[gnu::always_inline]] inline F keep_above(F x, float limit, F y) { return x > limit ? y : F{}; }
[[gnu::always_inline]] inline F2 keep_above(F2 x, float limit, F2 y) {
  return {keep_above(x.a, limit, y.a), keep_above(x.b, limit, y.b)};
}
/// e 2^n where n stands in the low bits of t
[[gnu::always_inline]] inline F raise(F e, F t) { return (F)((U)e + ((U)t << 23)); }
[[gnu::always_inline]] inline F2 raise(F2 e, F2 t) { return {raise(e.a, t.a), raise(e.b, t.b)}; }

}  // namespace capstan::kernels::CAPSTAN_ISA
