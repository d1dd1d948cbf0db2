// label: ranks
// A three-way covering array of the product of all layouts: any three settings meet in some row, and every row is its
// unsharded twin. tests/parallel/layout_product_test.cpp has all of the product (label slow).

#include "tests/parallel/product_twin.h"

namespace capstan::testing {
namespace {

/// Shares of the array, so that they run beside each other.
constexpr size_t kShares = 8;

const std::vector<Row>& rows() {
  static const std::vector<Row> chosen = three_way(all_rows(kLevels, allowed));
  return chosen;
}

TEST(CoveringArray, HasEveryThreeWayCombination) {
  const std::vector<Row> all = all_rows({2, 3, 2, 2}, [](const Row& row) { return row[0] + row[1] < 3; });
  EXPECT_EQ(all.size(), 20u);
  const std::vector<Row> some = three_way(all);
  EXPECT_LT(some.size(), all.size());
  for (const Row& wanted : all)
    for (size_t left_out = 0; left_out < wanted.size(); ++left_out) {
      const auto covers = [&](const Row& row) {
        for (size_t f = 0; f < row.size(); ++f)
          if (f != left_out && row[f] != wanted[f]) return false;
        return true;
      };
      EXPECT_TRUE(std::any_of(some.begin(), some.end(), covers));
    }
}

class LayoutCovering : public ::testing::TestWithParam<size_t> {};

TEST_P(LayoutCovering, EveryRowIsItsTwin) {
  size_t tried = 0;
  for (size_t i = GetParam(); i < rows().size(); i += kShares, ++tried) expect_row_is_its_twin(rows()[i]);
  EXPECT_GT(tried, 5u);
}

INSTANTIATE_TEST_SUITE_P(Shares, LayoutCovering, ::testing::Range<size_t>(0, kShares));

}  // namespace
}  // namespace capstan::testing
