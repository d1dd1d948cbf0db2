// label: plan
// The estimator of the gradient noise scale against gradients whose noise is known.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "launch/noise_scale.h"

namespace capstan {
namespace {

/// Mean gradient of `samples` samples: truth plus noise of variance `variance`/samples a component.
std::vector<double> drawn(const std::vector<double>& truth, double variance, double samples, std::mt19937_64& random) {
  std::normal_distribution<double> normal(0, std::sqrt(variance / samples));
  std::vector<double> out = truth;
  for (double& x : out) x += normal(random);
  return out;
}

double square_of(const std::vector<double>& x) { return std::inner_product(x.begin(), x.end(), x.begin(), 0.0); }

TEST(NoiseScale, IsFoundWithoutBiasWhereNoiseDrownsTheSignal) {
  constexpr int kSize = 50, kRanks = 4;
  constexpr double kVariance = 9, kSamples = 8;
  std::vector<double> truth(kSize, 0.1);
  const double wanted = kVariance * kSize / square_of(truth);  // 900, far above the batch
  std::mt19937_64 random(3);
  NoiseScale scale(2000);
  for (int step = 0; step < 20000; ++step) {
    std::vector<double> mean(kSize, 0);
    double small = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      const std::vector<double> own = drawn(truth, kVariance, kSamples, random);
      small += square_of(own) / kRanks;
      for (int i = 0; i < kSize; ++i) mean[i] += own[i] / kRanks;
    }
    scale.add(small, square_of(mean), kSamples, kRanks * kSamples);
  }
  EXPECT_NEAR(scale.tokens() / wanted, 1, 0.15);
}

TEST(NoiseScale, OneRankOrBadNumbersSayNothing) {
  NoiseScale scale;
  EXPECT_TRUE(std::isnan(scale.tokens()));
  scale.add(2, 2, 64, 64);
  scale.add(NAN, 1, 32, 64);
  EXPECT_TRUE(std::isnan(scale.tokens()));
  scale.add(3, 2, 32, 64);  // |G|^2 = 1, tr(Sigma) = 64
  EXPECT_NEAR(scale.tokens(), 64, 1e-9);
}

}  // namespace
}  // namespace capstan
