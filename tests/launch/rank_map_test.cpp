// label: plan
// Where ranks are, in words.
#include "launch/rank_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace capstan {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> hosts(int ranks, int each) {
  std::vector<std::string> names;
  for (int rank = 0; rank < ranks; ++rank) names.push_back("h" + std::to_string(rank / each) + "/99");
  return names;
}

TEST(RankMap, OneHostNeedsNoAxes) {
  EXPECT_THAT(rank_map_lines(Mesh({2, 1, 1, 2, 1}, 0), hosts(4, 8)), ElementsAre("1 host: h0 has 0-3"));
}

TEST(RankMap, SaysWhichAxesCross) {
  EXPECT_THAT(rank_map_lines(Mesh({2, 2, 1, 4, 1}, 5), hosts(16, 8)),
              ElementsAre("2 hosts: h0 has 0-7; h1 has 8-15", "dp, tp stay inside a host; pp crosses hosts"));
  EXPECT_THAT(rank_map_lines(Mesh({1, 1, 1, 4, 1}, 0), hosts(4, 2)),
              ElementsAre("2 hosts: h0 has 0-1; h1 has 2-3", "tp crosses hosts"));
}

TEST(RankMap, RanksDealtOutInTurnAreListed) {
  EXPECT_THAT(rank_map_lines(Mesh({2, 1, 1, 2, 1}, 0), {"a", "b", "a", "b"}),
              ElementsAre("2 hosts: a has 0,2; b has 1,3", "dp stays inside a host; tp crosses hosts"));
}

TEST(RankMap, ManyHostsAreAFewLines) {
  const auto lines = rank_map_lines(Mesh({512, 4, 1, 8, 1}, 0), hosts(16384, 8));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_LT(lines[0].size(), 500u);
  EXPECT_THAT(lines[0], ::testing::EndsWith("; and 2032 more"));
}

}  // namespace
}  // namespace capstan
