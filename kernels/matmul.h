#pragma once
// Matrix product with epilogue, row major and dense:
//   C[m, n] = act( op(A)[m, k] op(B)[k, n] + bias[n] )        or        C += op(A) op(B)
// op(X) is X, or X transposed when the flag is set (A is then stored [k, m], B [n, k]: a weight [out, in] is B with
// transpose_b). Products are formed in f32 (f64 for f64). A library behind it chooses its kernel and its scratch once,
// when the plan is made: prepare() returns an object that tells its scratch and then runs without allocating.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/activation.h"
#include "kernels/types.h"

namespace capstan::kernels {

struct MatmulShape {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType a = DType::f32, b = DType::f32, c = DType::f32;  ///< a == b; c is that dtype or its accumulation dtype
  bool bias = false;                                     ///< bias has a's dtype
  ActivationKind activation = ActivationKind::none;      ///< not with accumulation
  bool may_accumulate = false;  ///< run() may be called with accumulate; no bias, no activation
};

struct MatmulArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  ///< [n] or null
  void* c = nullptr;
  bool accumulate = false;  ///< C += instead of C =
  Stream stream = nullptr;
};

class PreparedMatmul {
 public:
  virtual ~PreparedMatmul() = default;
  virtual size_t scratch_bytes() const = 0;
  /// scratch: scratch_bytes() bytes, 64-byte aligned; contents are not kept between calls.
  virtual void run(const MatmulArgs& args, void* scratch) const = 0;
};

using PrepareMatmul = std::unique_ptr<PreparedMatmul> (*)(const MatmulShape& shape);

/// db[n] (=|+=) sum over rows of dy[rows, n]; db in accumulation_of(dtype). Rows are summed in a fixed order.
/// scratch: bias_gradient_scratch bytes.
struct BiasGradientArgs {
  const void* dy = nullptr;
  void* db = nullptr;
  int64_t rows = 0, n = 0;
  DType dtype = DType::f32;
  bool accumulate = false;
  void* scratch = nullptr;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
