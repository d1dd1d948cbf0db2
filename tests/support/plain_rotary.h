#pragma once
// Frequencies of rotary positions as their papers and reference code state them, a second time.

#include <algorithm>
#include <cmath>
#include <string>

namespace capstan::testing {

struct PlainRotaryScale {
  std::string kind = "none";
  double factor = 1, low = 1, high = 4, context = 0, amplitude = 1;
};

inline double plain_frequency(int64_t pair, int64_t dims, double base, const PlainRotaryScale& s) {
  const double pi = std::acos(-1.0);
  const double frequency = std::exp(-2.0 * static_cast<double>(pair) / static_cast<double>(dims) * std::log(base));
  if (s.kind == "linear") return frequency / s.factor;
  if (s.kind == "llama3") {
    const double wavelength = 2 * pi / frequency;
    if (wavelength < s.context / s.high) return frequency;
    if (wavelength > s.context / s.low) return frequency / s.factor;
    const double smooth = (s.context / wavelength - s.low) / (s.high - s.low);
    return (1 - smooth) * frequency / s.factor + smooth * frequency;
  }
  if (s.kind == "yarn") {
    const auto dim_of = [&](double turns) {
      return static_cast<double>(dims) * std::log(s.context / (turns * 2 * pi)) / (2 * std::log(base));
    };
    const double low = std::max(std::floor(dim_of(s.high)), 0.0);
    double high = std::min(std::ceil(dim_of(s.low)), static_cast<double>(dims - 1));
    if (low == high) high += 0.001;
    const double ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
    return frequency / s.factor * ramp + frequency * (1 - ramp);
  }
  return frequency;
}

}  // namespace capstan::testing
