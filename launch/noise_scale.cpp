#include "launch/noise_scale.h"

#include <cmath>
#include <limits>

#include "core/error.h"

namespace capstan {

void NoiseScale::add(double small_square, double big_square, double small_tokens, double big_tokens) {
  if (!(big_tokens > small_tokens) || !(small_tokens > 0)) return;
  if (!std::isfinite(small_square) || !std::isfinite(big_square)) return;
  const double signal = (big_tokens * big_square - small_tokens * small_square) / (big_tokens - small_tokens);
  const double noise = (small_square - big_square) / (1 / small_tokens - 1 / big_tokens);
  signal_ = decay_ * signal_ + (1 - decay_) * signal;
  noise_ = decay_ * noise_ + (1 - decay_) * noise;
  weight_ = decay_ * weight_ + (1 - decay_);
}

double NoiseScale::tokens() const {
  return weight_ > 0 && signal_ > 0 && noise_ > 0 ? noise_ / signal_ : std::numeric_limits<double>::quiet_NaN();
}

namespace {

template <typename T>
double squares(const T* x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

double square_sum(const void* numbers, size_t count, DType dtype) {
  if (dtype == DType::f32) return squares(static_cast<const float*>(numbers), count);
  CAPSTAN_CHECK(dtype == DType::f64, "gradients are summed in f32 or f64");
  return squares(static_cast<const double*>(numbers), count);
}

}  // namespace capstan
