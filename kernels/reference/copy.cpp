#include "kernels/copy.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {
template <typename T>
void fill_as(const FillArgs& args, T value) {
  std::fill_n(static_cast<T*>(args.to), args.count, value);
}
}  // namespace

void copy(const CopyArgs& args) {
  const char* from = static_cast<const char*>(args.from);
  char* to = static_cast<char*>(args.to);
  for (int64_t r = 0; r < args.rows; ++r, from += args.from_stride, to += args.to_stride)
    std::memcpy(to, from, args.row_bytes);
}

void fill(const FillArgs& args) {
  if (args.value == 0.0) {
    std::memset(args.to, 0, static_cast<size_t>(args.count) * bytes_of(args.dtype));
    return;
  }
  switch (args.dtype) {
    case DType::i64:
      return fill_as(args, static_cast<int64_t>(args.value));
    case DType::i32:
      return fill_as(args, static_cast<int32_t>(args.value));
    case DType::u32:
      return fill_as(args, static_cast<uint32_t>(args.value));
    case DType::u16:
      return fill_as(args, static_cast<uint16_t>(args.value));
    case DType::u8:
      return fill_as(args, static_cast<uint8_t>(args.value));
    default:
      with_element(args.dtype, "fill", [&]<typename T>(T value) {
        store(value, args.value);
        fill_as(args, value);
      });
  }
}

}  // namespace capstan::kernels::reference
