#pragma once
// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with everything that varies from step
// to step read from memory, and the global norm with clipping that decides it.
//   m = b1 m + (1-b1) g',  v = b2 v + (1-b2) g'^2,  g' = g * clip_scale
//   p = p - lr * decay * p;   p = p - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)        (as torch.optim.AdamW)
// A step whose `skip` is not 0 changes nothing.
// Gradients in f16 are multiplied by a loss scale so that small ones do not vanish, and divided by it again: it is
// halved when they overflow and doubled when they have not for a while (Micikevicius et al., "Mixed precision
// training", 2018). What it is, and how many updates there were, the memory of the device alone decides, so that
// nothing waits for the host. The rule: the host writes the first kSetByHost fields, before each step, and never the
// others once the run has begun.

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

/// Lives in the arena. What is written by clip holds from the next step on (loss_scale, good_steps, updates) or for
/// this one.
struct StepScalars {
  double learning_rate = 0.0;
  double clip_limit = 0.0;          ///< 0: no clipping
  double loss_scale_window = 0.0;   ///< good steps until the loss scale is doubled; 0: it never changes
  double minimum_loss_scale = 1.0;  ///< is not halved any more
  // From here on the host writes only what a run begins with.
  double loss_scale = 1.0;       ///< multiplies gradient_scale
  double good_steps = 0.0;       ///< since the loss scale last changed
  double updates = 0.0;          ///< steps that changed the parameters
  double correction1 = 1.0;      ///< written by begin_step: 1 - beta1^t, t = updates + 1
  double correction2 = 1.0;      ///< written by begin_step: 1 - beta2^t
  double gradient_scale = 1.0;   ///< written by begin_step: 1 / global sum of loss weights; without the loss scale
  double clip_scale = 1.0;       ///< written by clip: min(1, limit / norm) / loss_scale of this step
  double gradient_norm = 0.0;    ///< written by clip: without the loss scale
  double skip = 0.0;             ///< written by clip: 1 when the norm is not finite
  double used_loss_scale = 1.0;  ///< written by clip: of this step
};
constexpr int64_t kStepScalars = sizeof(StepScalars) / sizeof(double);
constexpr int64_t kSetByHost = offsetof(StepScalars, loss_scale) / sizeof(double);
constexpr double kLargestLossScale = 0x1p32;  ///< gradients that are all 0 would double it for ever

/// What follows from the sum of loss weights over all ranks and the powers beta1^t and beta2^t. own_weight: none, or
/// the sum of this rank alone; in its place goes what makes the square of the gradient of its own mean loss of that of
/// its part of the mean over all, NaN where it has none. For all backends, as decide_step.
static constexpr void start_step(StepScalars& s, double weights, double power1, double power2, double* own_weight) {
  s.gradient_scale = weights > 0.0 ? 1.0 / weights : 0.0;
  s.correction1 = 1.0 - power1;
  s.correction2 = 1.0 - power2;
  if (own_weight == nullptr) return;
  const double factor = *own_weight > 0.0 ? weights / *own_weight : __builtin_nan("");
  *own_weight = factor * factor;
}

/// What follows from the norm of the gradients, which still has the loss scale in it. For all backends: constexpr, for
/// code of other processors may call it; static, for it is compiled for several instruction sets.
static constexpr void decide_step(StepScalars& s, double scaled_norm) {
  const double scale = s.loss_scale, norm = scaled_norm / scale;
  const bool finite = norm <= DBL_MAX;  // of a NaN nothing is true
  const bool clips = s.clip_limit > 0.0 && norm > s.clip_limit;
  s.gradient_norm = norm;
  s.skip = finite ? 0.0 : 1.0;
  s.clip_scale = (clips ? s.clip_limit / norm : 1.0) / scale;
  s.used_loss_scale = scale;
  if (finite) ++s.updates;
  if (s.loss_scale_window <= 0.0) return;
  if (!finite) {
    s.good_steps = 0.0;
    s.loss_scale = scale / 2 < s.minimum_loss_scale ? s.minimum_loss_scale : scale / 2;
  } else if (++s.good_steps >= s.loss_scale_window) {
    s.good_steps = 0.0;
    s.loss_scale = scale * 2 > kLargestLossScale ? scale : scale * 2;
  }
}

/// start_step by what lies in memory.
struct BeginStepArgs {
  const double* weights = nullptr;  ///< the global sum
  StepScalars* scalars = nullptr;
  double* own_weight = nullptr;  ///< or none
  double beta1 = 0.9, beta2 = 0.95;
  Stream stream = nullptr;
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

/// decide_step of the root of the sums of squares (of gradients times loss_scale), which are added up in ascending
/// order: the norm depends on how the gradients are cut into sums, not on who formed them.
struct ClipArgs {
  const double* square_sums = nullptr;
  StepScalars* scalars = nullptr;
  int64_t count = 1;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
