// Copies of rows, appending to a key/value cache, and fills. Bytes move in the widest unit that all addresses, strides
// and lengths allow. Rows and units are two dimensions of the grid, so that no index is divided.

#include "kernels/copy.h"

#include <bit>
#include <cstring>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/element.cuh"
#include "kernels/elementwise.h"

namespace capstan::kernels::cuda {
namespace {

struct alignas(16) Sixteen {
  uint64_t half[2];
};

/// Calls f(U{}) with the widest unit that divides all of `sizes`, addresses among them.
template <typename F>
void with_unit(std::initializer_list<uint64_t> sizes, F&& f) {
  uint64_t all = 0;
  for (const uint64_t size : sizes) all |= size;
  if (all % 16 == 0) return f(Sixteen{});
  if (all % 8 == 0) return f(uint64_t{});
  if (all % 4 == 0) return f(uint32_t{});
  if (all % 2 == 0) return f(uint16_t{});
  return f(uint8_t{});
}

uint64_t address_of(const void* p) { return reinterpret_cast<uintptr_t>(p); }

/// A block of 256 threads cut to rows of `units`, and a grid over `rows` of them.
struct CopyGrid {
  dim3 grid, block;
  CopyGrid(int64_t rows, int64_t units) {
    unsigned x = 1;
    while (x < kBlock && x < units) x *= 2;
    block = dim3(x, kBlock / x);
    grid = dim3(blocks_for(units, x, 1 << 20), blocks_for(rows, kBlock / x));
  }
};

template <typename F>
__device__ void each_row_unit(int64_t rows, int64_t units, F f) {
  for (int64_t r = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u < units;
         u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
      f(r, u);
    }
  }
}

template <typename U>
__global__ void __launch_bounds__(kBlock)
    copy_kernel(const U* from, U* to, int64_t rows, int64_t units, int64_t from_stride, int64_t to_stride) {
  each_row_unit(rows, units, [=](int64_t r, int64_t u) { to[r * to_stride + u] = from[r * from_stride + u]; });
}

template <typename U>
__global__ void __launch_bounds__(kBlock) append_kernel(const U* x, U* cache, const int32_t* key_lengths, int64_t batch,
                                                        int64_t rows, int64_t capacity, int64_t width) {
  each_row_unit(batch, rows * width, [=](int64_t b, int64_t u) {
    const int64_t start = key_lengths[b] - rows;
    if (start < 0 || start + rows > capacity) return;  // our own fault; nothing outside the cache is written
    cache[(b * capacity + start) * width + u] = x[b * rows * width + u];
  });
}

template <typename U>
__global__ void __launch_bounds__(kBlock) fill_kernel(U* to, int64_t count, U value) {
  each_row_unit(1, count, [=](int64_t, int64_t u) { to[u] = value; });
}

/// A value as one element of dtype, repeated over 16 bytes.
Sixteen pattern_of(double value, DType dtype) {
  Sixteen pattern;
  const size_t size = bytes_of(dtype);
  uint8_t bytes[16];
  const auto put = [&](auto element) {
    for (size_t at = 0; at < sizeof bytes; at += size) std::memcpy(bytes + at, &element, size);
  };
  switch (dtype) {
    case DType::f64:
      put(value);
      break;
    case DType::f32:
      put(static_cast<float>(value));
      break;
    case DType::bf16:
      put(BFloat16(static_cast<float>(value)));
      break;
    case DType::f16:
      put(__float2half_rn(static_cast<float>(value)));
      break;
    case DType::i64:
      put(static_cast<int64_t>(value));
      break;
    case DType::i32:
      put(static_cast<int32_t>(value));
      break;
    case DType::u32:
      put(static_cast<uint32_t>(value));
      break;
    case DType::u16:
      put(static_cast<uint16_t>(value));
      break;
    case DType::u8:
      put(static_cast<uint8_t>(value));
      break;
  }
  std::memcpy(&pattern, bytes, sizeof pattern);
  return pattern;
}

}  // namespace

void copy(const CopyArgs& args) {
  int64_t rows = args.rows;
  size_t bytes = args.row_bytes;
  if (rows <= 0 || bytes == 0) return;
  if (args.from_stride == bytes && args.to_stride == bytes) bytes *= static_cast<size_t>(rows), rows = 1;
  const size_t from_stride = rows > 1 ? args.from_stride : 0, to_stride = rows > 1 ? args.to_stride : 0;
  with_unit({address_of(args.from), address_of(args.to), bytes, from_stride, to_stride}, [&]<typename U>(U) {
    const auto in_units = [](size_t n) { return static_cast<int64_t>(n / sizeof(U)); };
    const CopyGrid grid(rows, in_units(bytes));
    launch(copy_kernel<U>, grid.grid, grid.block, 0, args.stream, static_cast<const U*>(args.from),
           static_cast<U*>(args.to), rows, in_units(bytes), in_units(from_stride), in_units(to_stride));
  });
}

void cache_append(const CacheAppendArgs& args) {
  const int64_t row_bytes = args.width * static_cast<int64_t>(bytes_of(args.dtype));
  if (args.batch <= 0 || args.rows <= 0 || row_bytes <= 0) return;
  with_unit({address_of(args.x), address_of(args.cache), static_cast<uint64_t>(row_bytes)}, [&]<typename U>(U) {
    const int64_t width = row_bytes / static_cast<int64_t>(sizeof(U));
    const CopyGrid grid(args.batch, args.rows * width);
    launch(append_kernel<U>, grid.grid, grid.block, 0, args.stream, static_cast<const U*>(args.x),
           static_cast<U*>(args.cache), args.key_lengths, args.batch, args.rows, args.capacity, width);
  });
}

void fill(const FillArgs& args) {
  const int64_t bytes = args.count * static_cast<int64_t>(bytes_of(args.dtype));
  if (bytes <= 0) return;
  const Sixteen pattern = pattern_of(args.value, args.dtype);
  with_unit({address_of(args.to), static_cast<uint64_t>(bytes)}, [&]<typename U>(U) {
    U value;
    std::memcpy(&value, &pattern, sizeof value);
    const int64_t count = bytes / static_cast<int64_t>(sizeof(U));
    const CopyGrid grid(1, count);
    launch(fill_kernel<U>, grid.grid, grid.block, 0, args.stream, static_cast<U*>(args.to), count, value);
  });
}

}  // namespace capstan::kernels::cuda
