// label: plan
// The tree of sums against a recursion written out here, for many numbers of inputs; and what must not change its bits.
#include "parallel/reduction_tree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/parallel/communicator_suite.h"

namespace capstan {
namespace {

template <typename T>
std::vector<const void*> addresses(const std::vector<std::vector<T>>& inputs) {
  std::vector<const void*> result;
  for (const auto& v : inputs) result.push_back(v.data());
  return result;
}

template <typename T>
void expect_tree(int ranks, size_t count, ReduceOp op) {
  std::vector<std::vector<T>> inputs;
  for (int r = 0; r < ranks; ++r) inputs.push_back(suite::elements<T>(r, count, 5));
  const auto wanted = suite::expected<T>(ranks, 0, count, 5, op);
  std::vector<T> out(count);
  reduce_tree(out.data(), addresses(inputs).data(), ranks, count, suite::dtype_of<T>(), op);
  EXPECT_TRUE(suite::same_bits(out, wanted)) << ranks << " inputs of " << count;
  auto& own = inputs[static_cast<size_t>(ranks) / 2];
  reduce_tree(own.data(), addresses(inputs).data(), ranks, count, suite::dtype_of<T>(), op);
  EXPECT_TRUE(suite::same_bits(own, wanted)) << ranks << " inputs of " << count << ", in place";
}

TEST(ReductionTree, EqualsTheRecursion) {
  for (int ranks = 1; ranks <= 17; ++ranks)
    for (size_t count : {0, 1, 5, 1024, 1025, 3000})
      for (ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
        expect_tree<float>(ranks, count, op);
        expect_tree<double>(ranks, count, op);
        expect_tree<BFloat16>(ranks, count, op);
        expect_tree<Float16>(ranks, count, op);
        expect_tree<int32_t>(ranks, count, op);
        expect_tree<int64_t>(ranks, count, op);
      }
}

TEST(ReductionTree, OrderMattersInTheNumbersOfTheseTests) {  // else equal bits would prove nothing
  size_t different = 0;
  const auto tree = suite::expected<float>(4, 0, 1000, 5, ReduceOp::sum);
  for (size_t i = 0; i < tree.size(); ++i) {
    float in_a_row = 0;
    for (int r = 0; r < 4; ++r) in_a_row += suite::element<float>(r, i, 5);
    different += in_a_row != tree[i];
  }
  EXPECT_GT(different, 100u);
}

TEST(ReductionTree, FourRanksSumAsTwoTreesOfTwo) {
  const size_t n = 777;
  std::vector<std::vector<float>> inputs;
  for (int r = 0; r < 4; ++r) inputs.push_back(suite::elements<float>(r, n, 6));
  std::vector<float> all(n), left(n), right(n), joined(n);
  const auto in = addresses(inputs);
  reduce_tree(all.data(), in.data(), 4, n, DType::f32, ReduceOp::sum);
  reduce_tree(left.data(), in.data(), 2, n, DType::f32, ReduceOp::sum);
  reduce_tree(right.data(), in.data() + 2, 2, n, DType::f32, ReduceOp::sum);
  const void* halves[] = {left.data(), right.data()};
  reduce_tree(joined.data(), halves, 2, n, DType::f32, ReduceOp::sum);
  EXPECT_TRUE(suite::same_bits(all, joined));
}

TEST(ReductionTree, Bf16IsRoundedOnce) {  // 1 + 2^-8 is a tie that rounds to 1: rounding twice would give 1
  const BFloat16 one(1.0f), tiny(0x1p-8f);
  const void* inputs[] = {&one, &tiny, &tiny};
  BFloat16 sum;
  reduce_tree(&sum, inputs, 3, 1, DType::bf16, ReduceOp::sum);
  EXPECT_EQ(static_cast<float>(sum), 1.0f + 0x1p-7f);
}

TEST(ReductionTree, F16OverflowsOnlyAtTheEnd) {  // 60000 + 60000 is none of f16, but a partial sum in f32
  const Float16 high(60000.0f), low(-60000.0f);
  const void* inputs[] = {&high, &high, &low, &low};
  Float16 sum;
  reduce_tree(&sum, inputs, 4, 1, DType::f16, ReduceOp::sum);
  EXPECT_EQ(static_cast<float>(sum), 0.0f);
  reduce_tree(&sum, inputs, 2, 1, DType::f16, ReduceOp::sum);
  EXPECT_TRUE(std::isinf(static_cast<float>(sum)));
}

TEST(ReductionTree, MaximumKeepsNanOfAnyInput) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), high = 7;
  for (int where = 0; where < 5; ++where) {
    std::vector<const void*> inputs(5, &high);
    inputs[static_cast<size_t>(where)] = &nan;
    float result = 0;
    reduce_tree(&result, inputs.data(), 5, 1, DType::f32, ReduceOp::max);
    EXPECT_TRUE(std::isnan(result)) << where;
  }
}

TEST(ReductionTree, RefusesOtherTypes) {
  uint8_t a = 1;
  const void* inputs[] = {&a};
  EXPECT_THROW(reduce_tree(&a, inputs, 1, 1, DType::u8, ReduceOp::sum), Error);
}

}  // namespace
}  // namespace capstan
