#pragma once
// Table look-up and its gradient.
//   y[r, :] = table[ids[r], :] (+ add[r, :])           dtable[ids[r], :] += dy[r, :], rows of equal id in ascending r
// The gradient is deterministic without atomics. When `accumulate` is false the whole table gradient is written
// (rows never looked up become 0). An id outside the table is our own fault: the corpus was checked.
// A shard of a table holds entries [first, first + entries) of `all`: ids of the others look up zeros and give it no
// gradient, so that the sum over the shards is the look-up in the whole table.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

struct EmbeddingArgs {
  const int32_t* ids = nullptr;  ///< [rows]
  const void* table = nullptr;   ///< [entries, width]
  const void* add = nullptr;     ///< [rows, width] or null; may be y
  void* y = nullptr;             ///< [rows, width]
  int64_t rows = 0, entries = 0, width = 0;
  DType dtype = DType::f32;
  int64_t first = 0, all = 0;  ///< of a shard; all = 0: the table is whole
  Stream stream = nullptr;
};

struct EmbeddingBackwardArgs {
  const int32_t* ids = nullptr;
  const void* dy = nullptr;  ///< [rows, width]
  void* dtable = nullptr;    ///< [entries, width] in accumulation_of(dtype)
  bool accumulate = false;
  int64_t rows = 0, entries = 0, width = 0;
  DType dtype = DType::f32;
  void* scratch = nullptr;  ///< Backend::embedding_backward_scratch(rows, entries) bytes
  int64_t first = 0, all = 0;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
