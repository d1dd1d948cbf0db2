#pragma once
// Plain passes over memory: addition, scaling, casts, fills, appending to a key/value cache.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

/// y = a + b; y may be a or b. dtype of all three. Of several rows (dense), b is one row that is added to each of them.
struct AddArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  int64_t count = 0;  ///< of a row
  DType dtype = DType::f32;
  int64_t rows = 1;
  Stream stream = nullptr;
};

/// y = factor x; y may be x.
struct ScaleArgs {
  const void* x = nullptr;
  void* y = nullptr;
  double factor = 1.0;
  int64_t count = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

/// y = x in another dtype, rounded to nearest even.
struct CastArgs {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t count = 0;
  DType from = DType::f32, to = DType::f32;
  Stream stream = nullptr;
};

/// flag[0] = 1 where value[0] is not finite, else 0.
struct NotFiniteArgs {
  const double* value = nullptr;
  double* flag = nullptr;
  Stream stream = nullptr;
};

/// cache[b, start_b + i, :] = x[b, i, :] for i < rows; start_b = key_lengths[b] - rows. Rows beyond `capacity` are our
/// fault.
struct CacheAppendArgs {
  const void* x = nullptr;               ///< [batch, rows, width]
  void* cache = nullptr;                 ///< [batch, capacity, width]
  const int32_t* key_lengths = nullptr;  ///< [batch], counted after appending
  int64_t batch = 0, rows = 0, capacity = 0, width = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
