// Addition, scaling, casts between f32 and bf16, and the appending of rows to a key/value cache.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

void copy_bytes(const void* x, void* y, int64_t bytes) {
  if (x == y) return;
  parallel_shares(bytes, 4096, 2 * bytes, [=](int64_t begin, int64_t end) {
    __builtin_memcpy(static_cast<char*>(y) + begin, static_cast<const char*>(x) + begin,
                     static_cast<size_t>(end - begin));
  });
}

template <class From, class To>
void convert(const CastArgs& a) {
  const From* x = static_cast<const From*>(a.x);
  To* y = static_cast<To*>(a.y);
  parallel_vectors(
      a.count, sizeof(From) + sizeof(To), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        store(y + i, load(x + i, lanes), lanes);
      });
}

/// A step's own sums (loss, flags) are f64 whatever the model's dtype: a handful of numbers.
void add_doubles(const AddArgs& args) {
  const double *a = static_cast<const double*>(args.a), *b = static_cast<const double*>(args.b);
  double* y = static_cast<double*>(args.y);
  for (int64_t i = 0; i < args.count; ++i) y[i] = a[i] + b[i];
}

}  // namespace

void add(const AddArgs& args) {
  if (args.rows != 1) {
    const size_t row = static_cast<size_t>(args.count) * bytes_of(args.dtype);
    AddArgs one = args;
    one.rows = 1;
    for (int64_t r = 0; r < args.rows; ++r) {
      add(one);
      one.a = static_cast<const char*>(one.a) + row, one.y = static_cast<char*>(one.y) + row;
    }
    return;
  }
  if (args.dtype == DType::f64) return add_doubles(args);
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    const T *a = static_cast<const T*>(args.a), *b = static_cast<const T*>(args.b);
    T* y = static_cast<T*>(args.y);
    parallel_two_vectors(
        args.count, 3 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(y + i, load(a + i, lanes) + load(b + i, lanes), lanes);
        });
  });
}

void scale(const ScaleArgs& args) {
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    const float factor = static_cast<float>(args.factor);
    parallel_two_vectors(
        args.count, 2 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(y + i, load(x + i, lanes) * factor, lanes);
        });
  });
}

void cast(const CastArgs& args) {
  if (args.from == DType::f32 && args.to == DType::bf16) return convert<float, Bf16>(args);
  if (args.from == DType::bf16 && args.to == DType::f32) return convert<Bf16, float>(args);
  assert(args.from == args.to);
  copy_bytes(args.x, args.y, args.count * static_cast<int64_t>(bytes_of(args.from)));
}

void cache_append(const CacheAppendArgs& args) {
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t run = args.rows * args.width;
    for (int64_t b = 0; b < args.batch; ++b) {
      const int64_t start = args.key_lengths[b] - args.rows;
      assert(start >= 0 && args.key_lengths[b] <= args.capacity);
      copy_bytes(static_cast<const T*>(args.x) + b * run,
                 static_cast<T*>(args.cache) + (b * args.capacity + start) * args.width,
                 run * static_cast<int64_t>(sizeof(T)));
    }
  });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
