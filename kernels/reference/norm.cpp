#include "kernels/norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

template <typename T, typename A>
void norm_row(const NormArgs& args, const T* s, T* y, A& mean, A& rstd) {
  const int64_t width = args.width;
  const T* w = in<T>(args.weight);
  const T* b = in<T>(args.bias);
  A sum = 0, squares = 0;
  if (!args.rms) {
    for (int64_t i = 0; i < width; ++i) sum += load(s[i]);
  }
  mean = sum / A(width);
  for (int64_t i = 0; i < width; ++i) squares += (load(s[i]) - mean) * (load(s[i]) - mean);
  rstd = A(1) / std::sqrt(squares / A(width) + A(args.epsilon));
  for (int64_t i = 0; i < width; ++i) {
    const A value = (load(s[i]) - mean) * rstd * load(w[i]);
    store(y[i], b ? value + load(b[i]) : value);
  }
}

template <typename T, typename A>
void norm_backward_row(const NormBackwardArgs& args, int64_t row, A mean, A rstd) {
  const int64_t width = args.width, at = row * width;
  const T* s = in<T>(args.s) + at;
  const T* dy = in<T>(args.dy) + at;
  const T* dsum = args.dsum ? in<T>(args.dsum) + at : nullptr;
  const T* w = in<T>(args.weight);
  T* ds = out<T>(args.ds) + at;
  A* dweight = out<A>(args.dweight);
  A* dbias = out<A>(args.dbias);
  A sum_g = 0, sum_gn = 0;
  for (int64_t i = 0; i < width; ++i) {
    const A g = load(dy[i]) * load(w[i]), n = (load(s[i]) - mean) * rstd;
    sum_g += g;
    sum_gn += g * n;
    if (dweight) dweight[i] += load(dy[i]) * n;
    if (dbias) dbias[i] += load(dy[i]);
  }
  const A mean_g = args.rms ? A(0) : sum_g / A(width), mean_gn = sum_gn / A(width);
  for (int64_t i = 0; i < width; ++i) {
    const A g = load(dy[i]) * load(w[i]), n = (load(s[i]) - mean) * rstd;
    const A value = rstd * (g - mean_g - n * mean_gn);
    store(ds[i], dsum ? value + load(dsum[i]) : value);
  }
}

}  // namespace

void norm(const NormArgs& args) {
  with_element(args.dtype, "norm", [&]<typename T>(T) {
    using A = Accumulation<T>;
    const T* x = in<T>(args.x);
    const T* residual = in<T>(args.residual);
    T* sum = out<T>(args.sum);
    for (int64_t r = 0; r < args.rows; ++r) {
      const int64_t at = r * args.width;
      if (residual) {
        for (int64_t i = at; i < at + args.width; ++i) store(sum[i], load(x[i]) + load(residual[i]));
      }
      A mean, rstd;  // of s as stored: the backward pass reads that
      norm_row(args, residual ? sum + at : x + at, out<T>(args.y) + at, mean, rstd);
      if (!args.rms) out<A>(args.mean)[r] = mean;
      out<A>(args.rstd)[r] = rstd;
    }
  });
}

size_t norm_backward_scratch(int64_t, int64_t, DType) { return 0; }

void norm_backward(const NormBackwardArgs& args) {
  with_element(args.dtype, "norm_backward", [&]<typename T>(T) {
    using A = Accumulation<T>;
    if (!args.accumulate) {
      if (args.dweight) std::fill_n(out<A>(args.dweight), args.width, A(0));
      if (args.dbias) std::fill_n(out<A>(args.dbias), args.width, A(0));
    }
    for (int64_t r = 0; r < args.rows; ++r) {
      norm_backward_row<T, A>(args, r, args.rms ? A(0) : in<A>(args.mean)[r], in<A>(args.rstd)[r]);
    }
  });
}

}  // namespace capstan::kernels::reference
