#include "kernels/embedding.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

int64_t entry(const int32_t* ids, int64_t row, int64_t entries) {
  if (ids[row] < 0 || ids[row] >= entries) {
    throw std::out_of_range("embedding: id " + std::to_string(ids[row]) + " in row " + std::to_string(row) +
                            " is outside a table of " + std::to_string(entries) + " entries");
  }
  return ids[row];
}

}  // namespace

void embedding(const EmbeddingArgs& args) {
  with_element(args.dtype, "embedding", [&]<typename T>(T) {
    const T* add = in<T>(args.add);
    for (int64_t r = 0; r < args.rows; ++r) {
      const T* from = in<T>(args.table) + entry(args.ids, r, args.entries) * args.width;
      T* y = out<T>(args.y) + r * args.width;
      for (int64_t i = 0; i < args.width; ++i) {
        store(y[i], add ? load(from[i]) + load(add[r * args.width + i]) : load(from[i]));
      }
    }
  });
}

size_t embedding_backward_scratch(int64_t, int64_t) { return 0; }

void embedding_backward(const EmbeddingBackwardArgs& args) {
  with_element(args.dtype, "embedding_backward", [&]<typename T>(T) {
    using A = Accumulation<T>;
    A* dtable = out<A>(args.dtable);
    if (!args.accumulate) std::fill_n(dtable, args.entries * args.width, A(0));
    for (int64_t r = 0; r < args.rows; ++r) {
      const T* dy = in<T>(args.dy) + r * args.width;
      A* to = dtable + entry(args.ids, r, args.entries) * args.width;
      for (int64_t i = 0; i < args.width; ++i) to[i] += load(dy[i]);
    }
  });
}

}  // namespace capstan::kernels::reference
