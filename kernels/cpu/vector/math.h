#pragma once
// Elementary functions on vectors. exp is within 1 ulp for every normal result (smaller ones are flushed to 0), the
// tail of the normal distribution within a few ulp of its own value, sine and cosine within 1e-11 in double for angles
// up to 1.6 million. Coefficients: Chebyshev fits in high precision of (e^r - 1 - r) / r^2 and of exp(a^2) erfc(a) / t.

#include "kernels/cpu/vector/simd.h"

namespace capstan::kernels::CAPSTAN_ISA {

/// e^x for x in [-87.3, 88.7] or NaN, which stays. x = n ln 2 + r, |r| <= ln 2 / 2; 2^n is added to the exponent.
template <class V>
[[gnu::always_inline]] inline V exp_within(V x) {
  constexpr float kMagic = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const V t = fma(x, 1.44269504f, kMagic);
  const V n = t - kMagic;
  V r = fma(n, -0.693359375f, x);
  r = fma(n, 2.12194440e-4f, r);
  V q = fma(r, 0.00139262508315f, 0.00836323288368f);
  q = fma(q, r, 0.041666554213f);
  q = fma(q, r, 0.166665766661f);
  q = fma(q, r, 0.5f);
  return raise(fma(r * r, q, r) + 1.0f, t);
}

/// e^x for x <= 88.7; -inf gives 0, NaN gives NaN.
template <class V>
[[gnu::always_inline]] inline V exp_bounded(V x) {
  return select_below(x, -87.3365f, V{}, exp_within(x));
}

/// e^x; -inf gives 0, too large gives inf, NaN stays.
[[gnu::always_inline]] inline F exp(F x) {
  F y = exp_within(x);
  y = x < -87.3365f ? F{} : y;
  return x <= 88.72283f ? y : x + __builtin_inff();
}

/// NaN stays.
template <class V>
[[gnu::always_inline]] inline V clamp(V x, float low, float high) {
  return min(high, max(low, x));
}

constexpr float kExp2[] = {1.0f,
                           0.693147188071f,
                           0.24022650761f,
                           0.0555035689863f,
                           0.00961808237062f,
                           0.00133909782481f,
                           0.000154532624093f};  // (2^f - 1) / f, |f| <= 1/2
constexpr float kTail[] = {
    0.112836740254f,   0.112863485911f,  0.103647759834f,   0.085636595598f, 0.066772889206f,
    0.00400114044328f, 0.0776308503075f, -0.0876460412065f, 0.0242566234417f};  // exp(a^2) erfc(a) (1 + 0.4 a) / 2

/// Distribution function and density of the normal distribution: Phi(x) = (1 + erf(x / sqrt 2)) / 2. The density is
/// 2^(n + f) from one product, whose error counts only where the density is negligible.
template <class V>
struct Normal {
  V distribution, density;
};
template <class V>
[[gnu::always_inline]] inline Normal<V> normal(V x) {
  constexpr float kMagic = 0x1.8p23f, kHalfLog2e = 0.72134752f;
  const V z = min(174.0f, x * x);
  const V t = fma(z, -kHalfLog2e, kMagic);
  const V f = fma(z, -kHalfLog2e, kMagic - t);
  V e = fma(f, kExp2[6], kExp2[5]);
  e = fma(e, f, kExp2[4]);
  e = fma(e, f, kExp2[3]);
  e = fma(e, f, kExp2[2]);
  e = fma(e, f, kExp2[1]);
  e = fma(e, f, 1.0f);
  e = raise(e, t);
  const V u = 1.0f / fma(magnitude(x), 0.4f * 0.70710678f, 1.0f);
  V q = fma(u, kTail[8], kTail[7]);
  q = fma(q, u, kTail[6]);
  q = fma(q, u, kTail[5]);
  q = fma(q, u, kTail[4]);
  q = fma(q, u, kTail[3]);
  q = fma(q, u, kTail[2]);
  q = fma(q, u, kTail[1]);
  q = fma(q, u, kTail[0]);
  const V tail = q * (u * e);  // 1 - Phi(|x|)
  return {select_below(x, 0.0f, tail, 1.0f - tail), e * 0.39894228f};
}

/// Sine and cosine in double: angle = n pi/2 + r with pi/2 in three parts of 33 bits, so that n times a part is exact.
struct SineCosine {
  D sine, cosine;
};
[[gnu::always_inline]] inline SineCosine sine_cosine(D angle) {
  const D magic = splat_double(0x1.8p52);
  const D t = fma(angle, splat_double(0.63661977236758134308), magic);
  const D n = t - magic;
  D r = fma(n, splat_double(-1.57079632673412561417e+00), angle);
  r = fma(n, splat_double(-6.07710050630396597660e-11), r);
  r = fma(n, splat_double(-2.02226624871116645580e-21), r);
  const D z = r * r;
  D s = splat_double(-1.0 / 39916800);
  s = fma(s, z, splat_double(1.0 / 362880));
  s = fma(s, z, splat_double(-1.0 / 5040));
  s = fma(s, z, splat_double(1.0 / 120));
  s = fma(s, z, splat_double(-1.0 / 6));
  s = fma(s * z, r, r);
  D c = splat_double(1.0 / 479001600);
  c = fma(c, z, splat_double(-1.0 / 3628800));
  c = fma(c, z, splat_double(1.0 / 40320));
  c = fma(c, z, splat_double(-1.0 / 720));
  c = fma(c, z, splat_double(1.0 / 24));
  c = fma(c, z, splat_double(-0.5));
  c = fma(c, z, splat_double(1.0));
  const U64 quadrant = (U64)t;
  const auto odd = (quadrant & 1) != 0;
  const U64 sine = odd ? (U64)c : (U64)s, cosine = odd ? (U64)s : (U64)c;
  return {(D)(sine ^ ((quadrant & 2) << 62)), (D)(cosine ^ (((quadrant + 1) & 2) << 62))};
}

}  // namespace capstan::kernels::CAPSTAN_ISA
