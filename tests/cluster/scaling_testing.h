#pragma once
// Tables with known truth, for the tests of scaling laws.

#include <cmath>
#include <functional>

#include "cluster/scaling/measurements.h"
#include "cluster/scaling/random.h"

namespace capstan::scaling {

/// Chinchilla's law with known constants and its closed-form optimum.
struct Truth {
  double e = 1.8, a = 480, b = 2100, alpha = 0.35, beta = 0.37;
  double loss(double n, double d) const { return e + a * std::pow(n, -alpha) + b * std::pow(d, -beta); }
  double best_n(double flops) const {
    return std::pow(alpha * a / (beta * b), 1 / (alpha + beta)) * std::pow(flops / 6, beta / (alpha + beta));
  }
  double best_loss(double flops) const { return loss(best_n(flops), flops / 6 / best_n(flops)); }
};

/// IsoFLOP budgets 3.2 times apart from 1e18, `sizes` sizes from 1/8 to 8 times the best; noise on ln(loss).
inline Measurements isoflop_table(const Truth& truth, int budgets, int sizes, double noise, uint64_t seed) {
  Random random(seed, 0);
  Measurements m;
  for (int b = 0; b < budgets; ++b)
    for (int s = 0; s < sizes; ++s) {
      const double flops = 1e18 * std::pow(3.2, b), n = truth.best_n(flops) * std::pow(8, 2.0 * s / (sizes - 1) - 1);
      m.parameters.push_back(n);
      m.tokens.push_back(flops / 6 / n);
      m.loss.push_back(truth.loss(n, flops / 6 / n) * std::exp(noise * random.normal()));
    }
  return checked(m);
}

}  // namespace capstan::scaling
