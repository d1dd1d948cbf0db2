#include "io/weights/element_cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "io/weights/half_cast.h"

namespace capstan {
namespace {

constexpr size_t kCastBlock = 1024;
constexpr int64_t kBlocksForThreads = 64;  ///< fewer are done before others have woken

template <typename Value>
bool is_infinite(Value value) {
  if constexpr (std::is_same_v<Value, double>)
    return std::isinf(value);
  else
    return std::isinf(static_cast<float>(value));
}

template <typename To>
constexpr bool can_overflow = !std::is_same_v<To, double>;

template <typename From>
void widen_block(const From* src, float* dst, size_t count) {
  if constexpr (std::is_same_v<From, Float16>)
    cast_from_half(src, dst, count);
  else
    for (size_t i = 0; i < count; ++i) dst[i] = static_cast<float>(src[i]);
}

/// In loops of one step each, which compilers make vectors of. Via float, also from double to half: as torch does.
template <typename From, typename To>
void cast_block(const From* src, To* dst, size_t count) {
  if constexpr (std::is_same_v<To, float>) return widen_block(src, dst, count);
  float wide[kCastBlock];
  widen_block(src, wide, count);
  if constexpr (std::is_same_v<To, Float16>)
    cast_to_half(wide, dst, count);
  else
    for (size_t i = 0; i < count; ++i) dst[i] = static_cast<To>(wide[i]);
}

template <typename To>
bool holds_infinity(const To* values, size_t count) {
  if constexpr (sizeof(To) == 2) {
    constexpr uint16_t infinity = std::is_same_v<To, Float16> ? 0x7c00 : 0x7f80;
    uint16_t found = 0;
    for (size_t i = 0; i < count; ++i) found |= static_cast<uint16_t>((values[i].bits & 0x7fff) == infinity);
    return found != 0;
  } else {
    return std::any_of(values, values + count, [](To value) { return is_infinite(value); });
  }
}

template <typename From, typename To>
size_t cast_run(const From* src, To* dst, size_t count) {
  const auto blocks = static_cast<int64_t>((count + kCastBlock - 1) / kCastBlock);
  size_t overflowed = 0;
#pragma omp parallel for reduction(+ : overflowed) if (blocks > kBlocksForThreads)
  for (int64_t block = 0; block < blocks; ++block) {
    const size_t first = static_cast<size_t>(block) * kCastBlock, n = std::min(kCastBlock, count - first);
    cast_block(src + first, dst + first, n);
    if (!can_overflow<To> || !holds_infinity(dst + first, n)) continue;
    for (size_t i = first; i < first + n; ++i) overflowed += is_infinite(dst[i]) && !is_infinite(src[i]);
  }
  return overflowed;
}

template <typename From>
size_t cast_from(const void* src, void* dst, DType to, size_t count) {
  const From* from = static_cast<const From*>(src);
  switch (to) {
    case DType::f64:
      return cast_run(from, static_cast<double*>(dst), count);
    case DType::f32:
      return cast_run(from, static_cast<float*>(dst), count);
    case DType::bf16:
      return cast_run(from, static_cast<BFloat16*>(dst), count);
    case DType::f16:
      return cast_run(from, static_cast<Float16*>(dst), count);
    default:
      break;
  }
  throw Error::make(ExitCode::internal, "weights cannot be cast to {}", name_of(to));
}

}  // namespace

size_t cast_elements(const void* src, DType from, void* dst, DType to, size_t count) {
  if (from == to) {
    std::memmove(dst, src, count * bytes_of(from));
    return 0;
  }
  switch (from) {
    case DType::f64:
      return cast_from<double>(src, dst, to, count);
    case DType::f32:
      return cast_from<float>(src, dst, to, count);
    case DType::bf16:
      return cast_from<BFloat16>(src, dst, to, count);
    case DType::f16:
      return cast_from<Float16>(src, dst, to, count);
    default:
      break;
  }
  throw Error::make(ExitCode::internal, "weights cannot be cast from {}", name_of(from));
}

}  // namespace capstan
