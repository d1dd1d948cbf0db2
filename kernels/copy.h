#pragma once
// Memory moved and filled as it is, by the device that owns it: what is raw to an op may not be so to the host.

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

/// `rows` runs of row_bytes, each stride from the one before; from and to may not overlap.
struct CopyArgs {
  const void* from = nullptr;
  void* to = nullptr;
  size_t row_bytes = 0;
  int64_t rows = 1;
  size_t from_stride = 0, to_stride = 0;  ///< bytes; of no matter for one row
  Stream stream = nullptr;
};

struct FillArgs {
  void* to = nullptr;
  int64_t count = 0;
  double value = 0.0;
  DType dtype = DType::f32;  ///< any; integers take the value cut off
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
