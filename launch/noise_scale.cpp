#include "launch/noise_scale.h"

#include <cmath>
#include <limits>

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

}  // namespace capstan
