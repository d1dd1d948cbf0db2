#include "io/weights/element_cast.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace capstan {
namespace {

struct Half {
  uint16_t bits = 0;
  Half() = default;
  explicit Half(float value) : bits(half_from_float(value)) {}
  explicit operator float() const { return float_from_half(bits); }
};

template <typename From, typename To>
To narrowed(From value) {
  if constexpr (std::is_same_v<From, To>)
    return value;
  else if constexpr (std::is_same_v<To, double>)
    return static_cast<double>(static_cast<float>(value));
  else if constexpr (std::is_same_v<From, double>)
    return To(static_cast<float>(value));
  else
    return To(static_cast<float>(value));
}

template <typename Value>
bool is_infinite(Value value) {
  if constexpr (std::is_same_v<Value, double>)
    return std::isinf(value);
  else
    return std::isinf(static_cast<float>(value));
}

template <typename From, typename To>
size_t cast_run(const From* src, To* dst, size_t count) {
  size_t overflowed = 0;
  for (size_t i = 0; i < count; ++i) {
    dst[i] = narrowed<From, To>(src[i]);
    if constexpr (sizeof(To) < sizeof(From) || std::is_same_v<To, Half>)
      overflowed += is_infinite(dst[i]) && !is_infinite(src[i]);
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
      return cast_run(from, static_cast<Half*>(dst), count);
    default:
      break;
  }
  throw Error::make(ExitCode::internal, "weights cannot be cast to {}", name_of(to));
}

}  // namespace

float float_from_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest >= 0x0400u) return std::bit_cast<float>(sign | ((rest << 13) + ((127u - 15u) << 23)));
  const float small = static_cast<float>(rest) * 0x1p-24f;  // subnormal: a multiple of 2^-24
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(small));
}

uint16_t half_from_float(float value) {
  const uint32_t all = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (all >> 16) & 0x8000u, rest = all & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65520 on the nearest is infinity
  if (rest < 0x38800000u) {                                               // below 2^-14: multiples of 2^-24
    const float scaled = std::bit_cast<float>(rest) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyintf(scaled)));
  }
  const uint32_t rebased = rest - ((127u - 15u) << 23);
  return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
}

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
      return cast_from<Half>(src, dst, to, count);
    default:
      break;
  }
  throw Error::make(ExitCode::internal, "weights cannot be cast from {}", name_of(from));
}

}  // namespace capstan
