#pragma once
// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with everything that varies from step
// to step read from memory, and the global norm with clipping that decides it.
//   m = b1 m + (1-b1) g',  v = b2 v + (1-b2) g'^2,  g' = g * clip_scale
//   p = p - lr * decay * p;   p = p - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)        (as torch.optim.AdamW)
// A step whose `skip` is not 0 changes nothing.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

/// Lives in the arena; written by the host before the step (learning_rate, corrections) and by clip (the rest).
struct StepScalars {
  double learning_rate = 0.0;
  double correction1 = 1.0;     ///< 1 - beta1^t
  double correction2 = 1.0;     ///< 1 - beta2^t
  double clip_limit = 0.0;      ///< 0: no clipping
  double gradient_scale = 1.0;  ///< 1 / global sum of loss weights, times the loss scale
  double loss_scale = 1.0;
  double clip_scale = 1.0;     ///< written by clip: min(1, limit / norm) / loss_scale
  double gradient_norm = 0.0;  ///< written by clip
  double skip = 0.0;           ///< written by clip: 1 when the norm is not finite
};

struct AdamWArgs {
  void* parameter = nullptr;       ///< master [count], dtype
  void* working = nullptr;         ///< copy in working_dtype for the forward pass, or null
  const void* gradient = nullptr;  ///< [count], dtype
  void* moment1 = nullptr;
  void* moment2 = nullptr;
  const StepScalars* scalars = nullptr;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.0;
  int64_t count = 0;
  DType dtype = DType::f32;  ///< f32 or f64
  DType working_dtype = DType::bf16;
  Stream stream = nullptr;
};

/// sum (=|+=) weight x the sum of squares of x in double, in an order fixed for equal count and threads.
struct SquareSumArgs {
  const void* x = nullptr;
  double* sum = nullptr;
  bool accumulate = false;
  int64_t count = 0;
  DType dtype = DType::f32;
  void* scratch = nullptr;         ///< Backend::square_sum_scratch() bytes
  const double* weight = nullptr;  ///< none: 1
  Stream stream = nullptr;
};

/// Fills gradient_norm, clip_scale and skip of `scalars` from sums of squares (of gradients times loss_scale), which
/// are added up in ascending order: the norm depends on how the gradients are cut into sums, not on who formed them.
struct ClipArgs {
  const double* square_sums = nullptr;
  StepScalars* scalars = nullptr;
  int64_t count = 1;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
