#pragma once
// Matrix product with epilogue, row major and dense:
//   C[m, n] = act( op(A)[m, k] op(B)[k, n] + bias[n] )        or        C += op(A) op(B)
// op(X) is X, or X transposed when the flag is set (A is then stored [k, m], B [n, k]: a weight [out, in] is B with
// transpose_b). Products are formed in f32 (f64 for f64). A library behind it chooses its kernel and its scratch once,
// when the plan is made: prepare() returns an object that tells its scratch and then runs without allocating.
// What training asks of an epilogue, one of the three at a time:
//   keeps_input          C = act(x) and aux[m, n] = x, x = op(A) op(B) + bias; act may see x before it is rounded
//   activation_gradient  C = (op(A) op(B)) * act'(aux): no bias, no activation, not added to what is there
//   bias_gradient        beside C (+)= op(A) op(B): bias_gradient[m] (+)= sum over k of op(A), A with transpose_a
// A backend says by fuses() for which shapes one of these gains over a product and a kernel of its own, and of
// keeps_input only where act sees x as aux holds it: a run is bitwise the same across recomputation, which makes
// act(aux) again. One that gains from none may refuse them.

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
  bool keeps_input = false;     ///< of the activation, which there is
  ActivationKind activation_gradient = ActivationKind::none;
  bool bias_gradient = false;

  /// One of the three that only training asks for.
  bool trains() const { return keeps_input || activation_gradient != ActivationKind::none || bias_gradient; }
};

/// What is wrong with how a shape combines its epilogues; null when nothing is.
inline const char* epilogue_mistake(const MatmulShape& s) {
  const bool activates = s.activation != ActivationKind::none, derives = s.activation_gradient != ActivationKind::none;
  if (s.may_accumulate && (s.bias || activates || derives))
    return "a matrix product that accumulates takes no bias, no activation and no gradient of one";
  if (s.keeps_input && !activates) return "a matrix product has no activation whose input it could keep";
  if (derives && (s.bias || activates || s.bias_gradient))
    return "a matrix product under the gradient of an activation takes no other epilogue";
  if (s.bias_gradient && (!s.transpose_a || s.bias || activates))
    return "a matrix product sums a gradient of a bias over the rows of a transposed A, with no other epilogue";
  return nullptr;
}

struct MatmulArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  ///< [n] or null
  void* c = nullptr;
  bool accumulate = false;        ///< C += instead of C =; likewise bias_gradient
  void* aux = nullptr;            ///< [m, n] of C's dtype: written for keeps_input, read for activation_gradient
  void* bias_gradient = nullptr;  ///< [m] of a's accumulation dtype
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
