#include "kernels/embedding.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

/// The row of the table, or of the shard, that an id names; -1 when another shard has it.
template <typename Args>
int64_t entry(const Args& args, int64_t row) {
  const int64_t id = args.ids[row], all = args.all > 0 ? args.all : args.entries;
  if (id < 0 || id >= all) {
    throw std::out_of_range("embedding: id " + std::to_string(id) + " in row " + std::to_string(row) +
                            " is outside a table of " + std::to_string(all) + " entries");
  }
  const int64_t at = id - args.first;
  return at < 0 || at >= args.entries ? -1 : at;
}

}  // namespace

void embedding(const EmbeddingArgs& args) {
  with_element(args.dtype, "embedding", [&]<typename T>(T) {
    const T* add = in<T>(args.add);
    for (int64_t r = 0; r < args.rows; ++r) {
      const int64_t at = entry(args, r);
      const T* from = at < 0 ? nullptr : in<T>(args.table) + at * args.width;
      T* y = out<T>(args.y) + r * args.width;
      for (int64_t i = 0; i < args.width; ++i) {
        const Accumulation<T> looked_up = from ? load(from[i]) : Accumulation<T>(0);
        store(y[i], add ? looked_up + load(add[r * args.width + i]) : looked_up);
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
      const int64_t at = entry(args, r);
      if (at < 0) continue;
      const T* dy = in<T>(args.dy) + r * args.width;
      A* to = dtable + at * args.width;
      for (int64_t i = 0; i < args.width; ++i) to[i] += load(dy[i]);
    }
  });
}

}  // namespace capstan::kernels::reference
