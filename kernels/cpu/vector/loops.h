#pragma once
// How the vector kernels walk over memory: static shares of a range for the threads, vectors of a share, and fixed
// blocks of rows for sums over rows. Shares depend on nothing but the number of threads, and blocks not even on that.

#include <omp.h>

#include <cassert>

#include "kernels/cpu/vector/simd.h"
#include "kernels/types.h"

namespace capstan::kernels::CAPSTAN_ISA {

/// Work that moves fewer bytes than this is done by the calling thread: waking the others costs as much.
constexpr int64_t kSerialBytes = 128 << 10;

/// body(begin, end) for one share of [0, count) per thread; shares begin at multiples of `step`.
template <class Body>
inline void parallel_shares(int64_t count, int64_t step, int64_t bytes, Body body) {
  if (bytes < kSerialBytes || count <= step || omp_get_max_threads() == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), steps = (count + step - 1) / step;
    const int64_t share = (steps + threads - 1) / threads * step;
    const int64_t begin = omp_get_thread_num() * share, end = begin + share < count ? begin + share : count;
    if (begin < end) body(begin, end);
  }
}

/// body(offset, lanes) for each vector of [begin, end); lanes is Full, or Part at the end.
template <class Body>
[[gnu::always_inline]] inline void each_vector(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Full{});
  if (i < end) body(i, Part{static_cast<int>(end - i)});
}

/// As each_vector, but two vectors at a time (Twice) as long as there are two.
template <class Body>
[[gnu::always_inline]] inline void each_two_vectors(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + 2 * kLanes <= end; i += 2 * kLanes) body(i, Twice{});
  each_vector(i, end, body);
}

/// As each_vector over [0, count), with a third argument 0..3: which of several accumulators the vector goes into.
template <class Body>
[[gnu::always_inline]] inline void each_vector_of_four(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    body(i, Full{}, 0);
    body(i + kLanes, Full{}, 1);
    body(i + 2 * kLanes, Full{}, 2);
    body(i + 3 * kLanes, Full{}, 3);
  }
  for (; i + kLanes <= count; i += kLanes) body(i, Full{}, 0);
  if (i < count) body(i, Part{static_cast<int>(count - i)}, 1);
}

/// Elementwise pass over [0, count): body(offset, lanes); bytes_each: moved per element, all arrays together.
template <class Body>
inline void parallel_vectors(int64_t count, int64_t bytes_each, Body body) {
  parallel_shares(
      count, 64, count * bytes_each, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        each_vector(begin, end, body);
      });
}

/// The same, two vectors at a time.
template <class Body>
inline void parallel_two_vectors(int64_t count, int64_t bytes_each, Body body) {
  parallel_shares(
      count, 64, count * bytes_each, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        each_two_vectors(begin, end, body);
      });
}

/// Calls with a value of the element type: only f32 and bf16 exist here (Backend::dtypes says so to the plan).
template <class Call>
[[gnu::always_inline]] inline void with_element(DType dtype, Call call) {
  assert(dtype == DType::f32 || dtype == DType::bf16);
  if (dtype == DType::bf16) {
    call(Bf16{});
  } else {
    call(float{});
  }
}

/// Sums over rows are formed in at most 64 blocks of at least 32 rows, then over the blocks in ascending order.
struct RowBlocks {
  int64_t rows, count, each;
  explicit RowBlocks(int64_t all) : rows(all) {
    const int64_t wanted = (all + 31) / 32 < 64 ? (all + 31) / 32 : 64;
    each = wanted == 0 ? 0 : (all + wanted - 1) / wanted;
    count = each == 0 ? 0 : (all + each - 1) / each;
  }
  int64_t begin(int64_t block) const { return block * each; }
  int64_t end(int64_t block) const { return (block + 1) * each < rows ? (block + 1) * each : rows; }
};

/// result[width] (=|+=) sum over blocks of partial[block * stride + i], ascending.
inline void sum_blocks(const float* partial, int64_t blocks, int64_t stride, int64_t width, bool accumulate,
                       float* result) {
  parallel_vectors(
      width, (blocks + 1) * 4, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        F sum{};
        for (int64_t b = 0; b < blocks; ++b) sum += load(partial + b * stride + i, lanes);
        store(result + i, accumulate ? load(result + i, lanes) + sum : sum, lanes);
      });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
