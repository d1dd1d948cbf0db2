#include "io/weights/element_cast.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace capstan {
namespace {

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
    if constexpr (sizeof(To) < sizeof(From) || std::is_same_v<To, Float16>)
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
