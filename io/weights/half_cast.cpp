#include "io/weights/half_cast.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace capstan {
namespace {

#if defined(__x86_64__)
constexpr size_t kLanes = 8;

bool has_half_instructions() {
  static const bool has = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
  return has;
}

/// Both return how many they have done: whole vectors.
__attribute__((target("avx,f16c"))) size_t vectors_to_half(const float* src, Float16* dst, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
  return i;
}

__attribute__((target("avx,f16c"))) size_t vectors_from_half(const Float16* src, float* dst, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
  return i;
}
#else
bool has_half_instructions() { return false; }
size_t vectors_to_half(const float*, Float16*, size_t) { return 0; }
size_t vectors_from_half(const Float16*, float*, size_t) { return 0; }
#endif

}  // namespace

void cast_to_half(const float* src, Float16* dst, size_t count) {
  for (size_t i = has_half_instructions() ? vectors_to_half(src, dst, count) : 0; i < count; ++i)
    dst[i] = Float16(src[i]);
}

void cast_from_half(const Float16* src, float* dst, size_t count) {
  for (size_t i = has_half_instructions() ? vectors_from_half(src, dst, count) : 0; i < count; ++i)
    dst[i] = static_cast<float>(src[i]);
}

}  // namespace capstan
