// label: plan
// Casts between the floating types of weight files.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "io/weights/element_cast.h"

namespace capstan {
namespace {

float as_float(uint16_t bits) { return static_cast<float>(std::bit_cast<Float16>(bits)); }
uint16_t half_of(float value) { return Float16(value).bits; }

TEST(Cast, EveryHalfComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float wide = as_float(static_cast<uint16_t>(bits));
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(as_float(half_of(wide))));
      continue;
    }
    ASSERT_EQ(half_of(wide), bits) << wide;
  }
}

/// Against the compiler's own type: halves, their neighbours and what lies between.
TEST(Cast, FloatsRoundAsTheCompilersHalf) {
  std::mt19937 random(7);
  for (int i = 0; i < 400000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(value)) continue;
    const _Float16 wanted = static_cast<_Float16>(value);
    ASSERT_EQ(half_of(value), std::bit_cast<uint16_t>(wanted)) << value;
  }
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {  // the middle between two halves goes to the even one
    const float a = as_float(static_cast<uint16_t>(bits)), b = as_float(static_cast<uint16_t>(bits + 1));
    ASSERT_EQ(half_of((a + b) / 2), bits + (bits & 1)) << bits;
  }
}

/// Runs go through the processor's instructions, also those that end within a vector.
TEST(Cast, RunsOfHalvesAreTheSameBits) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(halves.size());
  cast_elements(halves.data(), DType::f16, wide.data(), DType::f32, halves.size());
  size_t different = 0;
  for (size_t i = 0; i < halves.size(); ++i) {
    const float wanted = as_float(halves[i]);
    different +=
        std::isnan(wanted) ? !std::isnan(wide[i]) : std::bit_cast<uint32_t>(wide[i]) != std::bit_cast<uint32_t>(wanted);
  }
  EXPECT_EQ(different, 0u);

  std::mt19937 random(11);
  for (const size_t count : {size_t{1}, size_t{7}, size_t{9}, size_t{300001}}) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i)  // every second one of a size that halves have
      values[i] = std::bit_cast<float>(static_cast<uint32_t>(i % 2 ? random() : 0x33000000u + random() % 0x15000000u));
    std::vector<uint16_t> narrow(count, 0xffff);
    cast_elements(values.data(), DType::f32, narrow.data(), DType::f16, count);
    different = 0;
    for (size_t i = 0; i < count; ++i) different += narrow[i] != half_of(values[i]);
    EXPECT_EQ(different, 0u) << "of " << count;
  }
}

TEST(Cast, OverflowIsCounted) {
  const std::vector<float> values = {1.0f, 65504.0f, 65519.9f, 65520.0f, -1e9f, std::numeric_limits<float>::infinity()};
  std::vector<uint16_t> halves(values.size());
  EXPECT_EQ(cast_elements(values.data(), DType::f32, halves.data(), DType::f16, values.size()), 2u);
  EXPECT_EQ(as_float(halves[2]), 65504.0f);
  std::vector<BFloat16> wide(values.size());
  EXPECT_EQ(cast_elements(values.data(), DType::f32, wide.data(), DType::bf16, values.size()), 0u);
}

TEST(Cast, WideningIsExactBothWays) {
  std::vector<uint16_t> bits(65536), back(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<double> wide(bits.size());
  for (const DType narrow : {DType::bf16, DType::f16}) {
    EXPECT_EQ(cast_elements(bits.data(), narrow, wide.data(), DType::f64, bits.size()), 0u);
    EXPECT_EQ(cast_elements(wide.data(), DType::f64, back.data(), narrow, bits.size()), 0u);
    size_t different = 0;
    for (size_t i = 0; i < bits.size(); ++i) different += bits[i] != back[i] && !std::isnan(wide[i]);
    EXPECT_EQ(different, 0u);
  }
}

}  // namespace
}  // namespace capstan
