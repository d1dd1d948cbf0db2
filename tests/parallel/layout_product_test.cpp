// label: slow
// The whole product of all layouts, each its unsharded twin.

#include "tests/parallel/product_twin.h"

namespace capstan::testing {
namespace {

constexpr size_t kShares = 64;

class LayoutProduct : public ::testing::TestWithParam<size_t> {};

TEST_P(LayoutProduct, EveryRowIsItsTwin) {
  const std::vector<Row> rows = all_rows(kLevels, allowed);
  EXPECT_GT(rows.size(), 1000u);
  for (size_t i = GetParam(); i < rows.size(); i += kShares) expect_row_is_its_twin(rows[i]);
}

INSTANTIATE_TEST_SUITE_P(Shares, LayoutProduct, ::testing::Range<size_t>(0, kShares));

}  // namespace
}  // namespace capstan::testing
