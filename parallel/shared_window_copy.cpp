#include "parallel/shared_window_copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace capstan {

#if defined(__x86_64__)

namespace {

constexpr size_t kLine = 64;
constexpr size_t kShort = 2048;

void stream_line(std::byte* to, const std::byte* from) {
  auto* target = reinterpret_cast<__m128i*>(to);
  const auto* source = reinterpret_cast<const __m128i*>(from);
  const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

}  // namespace

void copy_past_caches(void* to, const void* from, size_t bytes) {
  if (bytes < kShort || reinterpret_cast<uintptr_t>(to) % kLine != 0) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return;
  }
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  const size_t lines = bytes / kLine * kLine;
  for (size_t i = 0; i < lines; i += kLine) stream_line(target + i, source + i);
  _mm_sfence();
  std::memcpy(target + lines, source + lines, bytes - lines);
}

#else  // no portable store past the caches

void copy_past_caches(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

#endif

}  // namespace capstan
