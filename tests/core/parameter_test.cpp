// label: plan
// Parameters: the seed's values as a pure function, their distribution, padding; the flat layout; ALiBi slopes.

#include "core/parameter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/flat_layout.h"
#include "core/models/decoder.h"

namespace capstan {
namespace {

Parameter normal(const std::string& name, Shape shape, double deviation = 0.02) {
  return {name, std::move(shape), {Init::Kind::normal, deviation}};
}

TEST(InitialValue, DependsOnSeedNameAndIndexOnly) {
  const Parameter a = normal("layers.0.attention.q.weight", {64, 64}),
                  b = normal("layers.1.attention.q.weight", {64, 64});
  Parameter wider = a;
  wider.shape = {128, 64};
  std::vector<double> forward, backward;
  for (int64_t i = 0; i < 4096; ++i) forward.push_back(initial_value(a, 7, i));
  for (int64_t i = 4096; i-- > 0;) backward.push_back(initial_value(a, 7, i));
  int same_name = 0, same_seed = 0;
  for (int64_t i = 0; i < 4096; ++i) {
    const double value = forward[static_cast<size_t>(i)];
    ASSERT_EQ(value, backward[static_cast<size_t>(4095 - i)]);
    ASSERT_EQ(value, initial_value(wider, 7, i));
    same_name += value == initial_value(b, 7, i), same_seed += value == initial_value(a, 8, i);
  }
  EXPECT_EQ(same_name, 0);
  EXPECT_EQ(same_seed, 0);
}

/// Mean, variance, kurtosis, and correlation of neighbours (which share their random words) within five deviations.
TEST(InitialValue, IsNormal) {
  const double deviation = 0.02;
  const int64_t count = 200000;
  const Parameter parameter = normal("w", {count}, deviation);
  double sum = 0.0, squares = 0.0, fourth = 0.0, neighbours = 0.0, previous = 0.0, most = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double z = initial_value(parameter, 3, i) / deviation;
    ASSERT_TRUE(std::isfinite(z));
    sum += z, squares += z * z, fourth += z * z * z * z, neighbours += z * previous;
    most = std::max(most, std::abs(z));
    previous = z;
  }
  const double n = static_cast<double>(count), five = 5.0 / std::sqrt(n);
  EXPECT_NEAR(sum / n, 0.0, five);
  EXPECT_NEAR(squares / n, 1.0, five * std::sqrt(2.0));
  EXPECT_NEAR(fourth / n, 3.0, five * std::sqrt(96.0));
  EXPECT_NEAR(neighbours / n, 0.0, five);
  EXPECT_GT(most, 3.8);
  EXPECT_LT(most, 6.7) << "no word of 32 bits gives more";
}

TEST(InitialValue, PaddingIsZeroAndTheRestIsNot) {
  Parameter table = normal("embedding", {16, 8});
  table.rows = 13;
  EXPECT_EQ(table.logical_shape(), (Shape{13, 8}));
  for (int64_t i = 0; i < 16 * 8; ++i) EXPECT_EQ(initial_value(table, 1, i) == 0.0, i >= 13 * 8) << i;
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(initial_value({"n", {4}, {Init::Kind::ones}}, 1, i), 1.0);
    EXPECT_EQ(initial_value({"b", {4}, {Init::Kind::zeros}}, 1, i), 0.0);
  }
}

TEST(ParameterSet, CountsWithoutPaddingAndFindsByName) {
  ParameterSet set;
  Parameter table = normal("table", {16, 8});
  table.rows = 13;
  Parameter still = normal("still", {5, 5});
  still.frozen = true;
  EXPECT_EQ(set.declare(table), 0);
  EXPECT_EQ(set.declare(still), 1);
  EXPECT_EQ(set.elements(), 13 * 8 + 25);
  EXPECT_EQ(set.trainable_elements(), 13 * 8);
  EXPECT_EQ(set.find("still"), 1);
  EXPECT_EQ(set.find("stil"), -1);
  EXPECT_THROW(set.declare(table), Error);
}

TEST(FlatLayout, DecayFirstEachAlignedFrozenNowhere) {
  ParameterSet set;
  const auto declare = [&](const char* name, Shape shape, bool decay, bool frozen) {
    Parameter parameter = normal(name, std::move(shape));
    parameter.decay = decay, parameter.frozen = frozen;
    set.declare(parameter);
  };
  declare("a", {3, 3}, true, false), declare("norm", {5}, false, false), declare("still", {40}, true, true);
  declare("b", {17}, true, false), declare("bias", {1}, false, false);
  const FlatLayout layout = flat_layout(set, DType::f32);
  EXPECT_EQ(layout.first, (std::vector<int64_t>{0, 48, -1, 16, 64}));
  EXPECT_EQ(layout.elements, 80);
  ASSERT_EQ(layout.runs.size(), 2u);
  EXPECT_TRUE(layout.runs[0].decay && layout.runs[0].first == 0 && layout.runs[0].count == 48);
  EXPECT_TRUE(!layout.runs[1].decay && layout.runs[1].first == 48 && layout.runs[1].count == 32);
  EXPECT_EQ(flat_layout(set, DType::f64).first, (std::vector<int64_t>{0, 40, -1, 16, 48}));
}

std::vector<float> slopes_of(int64_t heads) {
  DecoderConfig config;
  config.heads = heads, config.width = heads, config.layers = 1, config.vocabulary = 16,
  config.positions = Positions::alibi;
  ParameterSet set;
  return Decoder(config, set).alibi_slopes();
}

/// Press et al. (2022): 2^(-8 i / heads) for a power of two; others add the odd terms of twice that power.
TEST(AlibiSlopes, AreThoseOfThePaper) {
  EXPECT_EQ(slopes_of(8),
            (std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f}));
  const std::vector<float> twelve = slopes_of(12);
  ASSERT_EQ(twelve.size(), 12u);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(twelve[i], slopes_of(8)[i]);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_FLOAT_EQ(twelve[8 + i], static_cast<float>(std::pow(2.0, -0.5 - static_cast<double>(i))));
  const std::vector<float> many = slopes_of(112);
  ASSERT_EQ(many.size(), 112u);
  for (size_t i = 0; i < 64; ++i)
    EXPECT_FLOAT_EQ(many[i], static_cast<float>(std::pow(2.0, -static_cast<double>(i + 1) / 8.0)));
  for (size_t i = 0; i < 48; ++i)
    EXPECT_FLOAT_EQ(many[64 + i], static_cast<float>(std::pow(2.0, -static_cast<double>(2 * i + 1) / 16.0)));
}

}  // namespace
}  // namespace capstan
