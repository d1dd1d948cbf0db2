// Look-up of table rows, and its gradient without atomics or sorting: each thread owns a tile (columns x entries) of
// the table's gradient and reads all ids in ascending row order, so equal ids are added in that order.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

template <class T>
void look_up(const EmbeddingArgs& a) {
  const T *table = static_cast<const T*>(a.table), *add = static_cast<const T*>(a.add);
  T* y = static_cast<T*>(a.y);
  const int64_t width = a.width;
  const int64_t bytes = a.rows * width * static_cast<int64_t>(sizeof(T)) * (add ? 3 : 2);
  parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = a.ids[r] - a.first;
      assert(a.ids[r] >= 0 && a.ids[r] < (a.all > 0 ? a.all : a.entries));
      const bool here = at >= 0 && at < a.entries;  // else another shard has it: zeros
      const T *entry = table + (here ? at : 0) * width, *add_row = add ? add + r * width : nullptr;
      T* y_row = y + r * width;
      if (!here) {
        if (!add_row) __builtin_memset(y_row, 0, sizeof(T) * static_cast<size_t>(width));
        if (add_row && add_row != y_row) __builtin_memcpy(y_row, add_row, sizeof(T) * static_cast<size_t>(width));
      } else if (add_row) {
        each_vector(
            0, width, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
              store(y_row + i, load(entry + i, lanes) + load(add_row + i, lanes), lanes);
            });
      } else {
        __builtin_memcpy(y_row, entry, sizeof(T) * static_cast<size_t>(width));
      }
    }
  });
}

/// Adds the rows whose id lies in [first, last) to columns [begin, end).
template <class T>
void add_tile(const EmbeddingBackwardArgs& a, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const T* dy = static_cast<const T*>(a.dy);
  float* dtable = static_cast<float*>(a.dtable);
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t id = a.ids[r] - a.first;
    if (id < first || id >= last) continue;
    const T* from = dy + r * a.width;
    float* to = dtable + id * a.width;
    each_vector(
        begin, end, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(to + i, load(to + i, lanes) + load(from + i, lanes), lanes);
        });
  }
}

template <class T>
void add_rows(const EmbeddingBackwardArgs& a) {
  const int64_t bytes = a.rows * a.width * 12;
  const int64_t threads = bytes < kSerialBytes ? 1 : omp_get_max_threads();
  const int64_t strips = threads < a.width / 128 ? threads : (a.width < 256 ? 1 : a.width / 128);
  const int64_t bands = threads / strips, tiles = strips * bands;
  const int64_t columns = ((a.width + strips - 1) / strips + 15) / 16 * 16, entries = (a.entries + bands - 1) / bands;
  parallel_shares(tiles, 1, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t / strips * entries, left = t % strips * columns;
      const int64_t right = left + columns < a.width ? left + columns : a.width;
      if (left < right) add_tile<T>(a, first, first + entries, left, right);
    }
  });
}

}  // namespace

void embedding(const EmbeddingArgs& args) {
  with_element(args.dtype, [&](auto element) { look_up<decltype(element)>(args); });
}

size_t embedding_backward_scratch(int64_t, int64_t) { return 0; }

void embedding_backward(const EmbeddingBackwardArgs& args) {
  if (!args.accumulate) {
    float* dtable = static_cast<float*>(args.dtable);
    parallel_shares(args.entries * args.width, 1024, args.entries * args.width * 4, [=](int64_t begin, int64_t end) {
      __builtin_memset(dtable + begin, 0, sizeof(float) * static_cast<size_t>(end - begin));
    });
  }
  with_element(args.dtype, [&](auto element) { add_rows<decltype(element)>(args); });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
