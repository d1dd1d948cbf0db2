#pragma once
// Layer norm and RMS norm over the last dim, with the residual addition in front of it fused in.
//   s = x + residual (when given; s is written to `sum`)
//   layer:  y = (s - mean) rstd w + b,  rstd = 1/sqrt(var + eps)          rms:  y = s rstd w,  rstd = 1/sqrt(mean(s^2)
//   + eps)
// Backward, with g = dy w and n = (s - mean) rstd:
//   layer:  ds = rstd (g - mean(g) - n mean(g n)) (+ dsum)               rms:  ds = rstd (g - n mean(g n)) (+ dsum)
//   dw (=|+=) sum over rows dy n,  db (=|+=) sum over rows dy, in a fixed order.
// mean and rstd [rows], w, b gradients: accumulation_of(dtype). w and b have the dtype of x.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

struct NormArgs {
  bool rms = false;
  const void* x = nullptr;         ///< [rows, width]
  const void* residual = nullptr;  ///< [rows, width] or null
  void* sum = nullptr;             ///< [rows, width] when residual is given; may be x or residual
  const void* weight = nullptr;    ///< [width]
  const void* bias = nullptr;      ///< [width] or null
  void* y = nullptr;               ///< [rows, width]
  void* mean = nullptr;            ///< [rows]; null for rms
  void* rstd = nullptr;            ///< [rows]
  int64_t rows = 0, width = 0;
  double epsilon = 1e-5;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

struct NormBackwardArgs {
  bool rms = false;
  const void* s = nullptr;  ///< what was normalised [rows, width]
  const void* weight = nullptr;
  const void* mean = nullptr;  ///< null for rms
  const void* rstd = nullptr;
  const void* dy = nullptr;    ///< [rows, width]
  const void* dsum = nullptr;  ///< gradient that reaches s by other ways, or null
  void* ds = nullptr;          ///< [rows, width]; may be dy or dsum
  void* dweight = nullptr;     ///< [width]; null: frozen
  void* dbias = nullptr;       ///< [width] or null
  bool accumulate = false;     ///< dweight, dbias are added to
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
  void* scratch = nullptr;  ///< Backend::norm_backward_scratch(rows, width, dtype) bytes
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
