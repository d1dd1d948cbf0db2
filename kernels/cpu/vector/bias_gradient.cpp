// Sum over rows of an output gradient: blocks of rows, four rows at a time so that the running sums are touched once
// for four reads of memory.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

template <class T>
void sum_rows(const T* dy, int64_t rows, int64_t n, float* sums) {
  __builtin_memset(sums, 0, sizeof(float) * static_cast<size_t>(n));
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* row = dy + r * n;
    each_vector(
        0, n, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          const F upper = load(row + i, lanes) + load(row + n + i, lanes);
          const F lower = load(row + 2 * n + i, lanes) + load(row + 3 * n + i, lanes);
          store(sums + i, load(sums + i, lanes) + (upper + lower), lanes);
        });
  }
  for (; r < rows; ++r) {
    const T* row = dy + r * n;
    each_vector(
        0, n, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(sums + i, load(sums + i, lanes) + load(row + i, lanes), lanes);
        });
  }
}

template <class T>
void run(const BiasGradientArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  float* sums = static_cast<float*>(a.scratch);
  const RowBlocks blocks(a.rows);
  const int64_t bytes = a.rows * a.n * static_cast<int64_t>(sizeof(T));
  parallel_shares(blocks.count, 1, bytes, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      sum_rows(dy + blocks.begin(b) * a.n, blocks.end(b) - blocks.begin(b), a.n, sums + b * a.n);
    }
  });
  sum_blocks(sums, blocks.count, a.n, a.n, a.accumulate, static_cast<float*>(a.db));
}

}  // namespace

size_t bias_gradient_scratch(int64_t rows, int64_t n) {
  return static_cast<size_t>(RowBlocks(rows).count * n) * sizeof(float);
}

void bias_gradient(const BiasGradientArgs& args) {
  with_element(args.dtype, [&](auto element) { run<decltype(element)>(args); });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
