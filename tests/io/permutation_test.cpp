// label: cpu
// The order of an epoch: a bijection for every size, well mixed, different per seed and epoch, and frozen.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "core/error.h"
#include "io/corpus/keyed_permutation.h"

namespace capstan {
namespace {

void expect_bijection(uint64_t size, uint64_t seed, uint64_t epoch) {
  const KeyedPermutation order(size, seed, epoch);
  std::vector<bool> seen(size);
  for (uint64_t i = 0; i < size; ++i) {
    const uint64_t at = order(i);
    ASSERT_LT(at, size);
    ASSERT_FALSE(seen[at]) << "size " << size << " seed " << seed << " epoch " << epoch << " position " << i;
    seen[at] = true;
  }
}

TEST(KeyedPermutation, IsABijectionForEverySmallSize) {
  for (uint64_t size = 1; size <= 300; ++size)
    for (uint64_t seed = 0; seed < 3; ++seed) expect_bijection(size, seed, size % 5);
}

TEST(KeyedPermutation, IsABijectionForRandomSizesSeedsAndEpochs) {
  std::mt19937_64 random(20240607);
  for (int i = 0; i < 20; ++i) expect_bijection(1 + random() % 60000, random(), random());
  for (const uint64_t size : {65535u, 65536u, 65537u}) expect_bijection(size, 7, 7);
}

TEST(KeyedPermutation, LargeSizesStayInRangeAndDoNotRepeat) {
  for (const uint64_t size : {(uint64_t{1} << 40) + 1, UINT64_MAX, uint64_t{1} << 63}) {
    const KeyedPermutation order(size, 3, 1);
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < 2000; ++i) {
      const uint64_t at = order(size - 1 - i * 7919);
      EXPECT_LT(at, size);
      EXPECT_TRUE(seen.insert(at).second);
    }
  }
}

// Neighbours must not stay neighbours, and the mean distance travelled is a third of the size, as for a shuffle.
TEST(KeyedPermutation, IsWellMixed) {
  for (const uint64_t size : {1000u, 4097u, 50000u}) {
    const KeyedPermutation order(size, 1, 0), later(size, 1, 1), other(size, 2, 0);
    double travelled = 0;
    uint64_t neighbours = 0, same_next_epoch = 0, same_other_seed = 0, low_bits = 0;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t at = order(i);
      travelled += std::abs(static_cast<double>(at) - static_cast<double>(i));
      neighbours += i > 0 && (at == order(i - 1) + 1);
      same_next_epoch += at == later(i);
      same_other_seed += at == other(i);
      low_bits += (at ^ i) & 1;
    }
    const double n = static_cast<double>(size);
    EXPECT_NEAR(travelled / n / n, 1.0 / 3, 0.03) << size;
    EXPECT_LT(neighbours, 12u) << size;  // 1 expected
    EXPECT_LT(same_next_epoch, 12u) << size;
    EXPECT_LT(same_other_seed, 12u) << size;
    EXPECT_NEAR(static_cast<double>(low_bits) / n, 0.5, 0.06) << size;
  }
}

TEST(KeyedPermutation, CanBeWalkedBackwards) {
  std::mt19937_64 random(77);
  for (int i = 0; i < 40; ++i) {
    const uint64_t size = i < 10 ? static_cast<uint64_t>(i) + 1 : 1 + random() % (uint64_t{1} << (i % 50 + 1));
    const KeyedPermutation order(size, random(), random());
    for (int k = 0; k < 200; ++k) {
      const uint64_t at = random() % size;
      ASSERT_EQ(order.inverse(order(at)), at) << size;
      ASSERT_EQ(order(order.inverse(at)), at) << size;
    }
  }
}

// Serial correlation: where the sample after next, or 1,000 later, lies tells nothing about where this one lies. The
// coefficient of n random pairs has a standard deviation of 1 / sqrt(n).
TEST(KeyedPermutation, HasNoSerialCorrelation) {
  std::mt19937_64 random(78);
  for (const uint64_t size : {uint64_t{4096}, uint64_t{100003}, uint64_t{1} << 40})
    for (int round = 0; round < 5; ++round) {
      const KeyedPermutation order(size, random(), random() % 100);
      const uint64_t n = std::min<uint64_t>(size, 20000), from = random() % (size - n + 1);
      std::vector<double> x;
      for (uint64_t i = 0; i < n; ++i)
        x.push_back(static_cast<double>(order(from + i)) / static_cast<double>(size) - 0.5);
      for (const uint64_t lag : {1u, 2u, 3u, 8u, 64u, 1000u}) {
        double product = 0, square = 0;
        for (uint64_t i = 0; i < n; ++i) square += x[i] * x[i];
        for (uint64_t i = 0; i + lag < n; ++i) product += x[i] * x[i + lag];
        EXPECT_LT(std::abs(product / square), 4.5 / std::sqrt(static_cast<double>(n))) << size << " lag " << lag;
      }
    }
}

// Each element is as likely in each place: chi-square over seeds for a small size.
TEST(KeyedPermutation, EveryPlaceIsEquallyLikely) {
  constexpr uint64_t kSize = 6, kSeeds = 6000;
  double chi = 0;
  uint64_t counts[kSize][kSize] = {};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const KeyedPermutation order(kSize, seed, 0);
    for (uint64_t i = 0; i < kSize; ++i) ++counts[i][order(i)];
  }
  for (const auto& row : counts)
    for (const uint64_t count : row) chi += std::pow(static_cast<double>(count) - kSeeds / kSize, 2) / (kSeeds / kSize);
  EXPECT_LT(chi, 60);  // 25 degrees of freedom: 99.99% lie below 59
}

// A checkpoint's cursor names these samples for ever.
TEST(KeyedPermutation, IsFrozen) {
  const auto first = [](uint64_t size, uint64_t seed, uint64_t epoch) {
    const KeyedPermutation order(size, seed, epoch);
    return std::vector<uint64_t>{order(0), order(1), order(2), order(3)};
  };
  EXPECT_EQ(first(1000, 0, 0), (std::vector<uint64_t>{499, 599, 502, 19}));
  EXPECT_EQ(first(1000, 1337, 2), (std::vector<uint64_t>{55, 144, 561, 646}));
  EXPECT_EQ(first(uint64_t{1} << 40, 42, 0),
            (std::vector<uint64_t>{452922569557, 193528156957, 809057399944, 1053886360909}));
}

TEST(KeyedPermutation, RefusesWhatIsOutOfRange) {
  EXPECT_THROW(KeyedPermutation(0, 1, 1), Error);
  EXPECT_THROW(KeyedPermutation(5, 1, 1)(5), Error);
}

}  // namespace
}  // namespace capstan
