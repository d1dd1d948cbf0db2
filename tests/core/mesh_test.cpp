// label: plan
// The grid of ranks: coordinates, colours, refusals; and what a rank holds of a placed tensor.

#include "core/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

#include "core/error.h"
#include "core/placement.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

int product(const Mesh::Sizes& sizes) {
  int ranks = 1;
  for (const int size : sizes) ranks *= size;
  return ranks;
}

TEST(Mesh, OneRankIsTheMeshOfNothing) {
  const Mesh mesh;
  EXPECT_EQ(mesh.ranks(), 1);
  for (const Axis axis : kAllAxes) {
    EXPECT_EQ(mesh.size(axis), 1);
    EXPECT_EQ(mesh.coordinate(axis), 0);
    EXPECT_EQ(mesh.colour(axis), 0);
  }
}

TEST(Mesh, NeighbouringRanksShareTensorParallelism) {
  const Mesh::Sizes sizes{2, 3, 1, 4, 1};  // dp, pp, cp, tp, ep
  for (int rank = 0; rank < 24; ++rank) {
    const Mesh mesh(sizes, rank);
    EXPECT_EQ(mesh.coordinate(Axis::tp), rank % 4);
    EXPECT_EQ(mesh.coordinate(Axis::dp), rank / 4 % 2);
    EXPECT_EQ(mesh.coordinate(Axis::pp), rank / 8);
  }
  EXPECT_EQ(Mesh(sizes, 0).describe(), "dp 2 x pp 3 x cp 1 x tp 4 x ep 1");
}

/// Groups of dp are neighbours, replicas are groups apart; the data rank counts through both.
TEST(Mesh, ReplicasLieOutsideOfTheRanksThatShareState) {
  const Mesh::Sizes sizes{2, 3, 1, 2, 1, 4};
  for (int rank = 0; rank < 48; ++rank) {
    const Mesh mesh(sizes, rank);
    EXPECT_EQ(mesh.coordinate(Axis::tp), rank % 2);
    EXPECT_EQ(mesh.coordinate(Axis::dp), rank / 2 % 2);
    EXPECT_EQ(mesh.coordinate(Axis::rep), rank / 4 % 4);
    EXPECT_EQ(mesh.coordinate(Axis::pp), rank / 16);
    EXPECT_EQ(mesh.data_rank(), rank / 2 % 8);
    EXPECT_EQ(mesh.data_ranks(), 8);
    const TensorSpec batch{{16, 5}, DType::i32, with(with({}, Axis::dp, Shard(0)), Axis::rep, Shard(0))};
    EXPECT_EQ(local_extents(batch, mesh)[0].first, 2 * mesh.data_rank()) << "samples in the order of the data ranks";
  }
  EXPECT_EQ(Mesh(sizes, 0).describe(), "dp 2 x rep 4 x pp 3 x cp 1 x tp 2 x ep 1");
  EXPECT_THROW(Mesh({2, 1, 1, 1, 1, 0}, 0), Error);
}

TEST(Mesh, RefusesWhatIsNoPlaceInIt) {
  for (const int rank : {-1, 4}) EXPECT_THROW(Mesh::data_parallel(4, rank), Error);
  EXPECT_THROW(Mesh({0, 1, 1, 1, 1}, 0), Error);
  EXPECT_THAT(support::refusal_of(ExitCode::config,
                                  [] {
                                    Mesh({2, 1, 1, -3, 1}, 0);
                                  }),
              AllOf(HasSubstr("layout.tp"), HasSubstr("-3")));
}

/// Along every axis the colours part the ranks into groups as large as the axis, in which every coordinate along the
/// axis occurs once, in rank order, and all other coordinates are equal.
RC_GTEST_PROP(Mesh, ColoursPartTheRanks, ()) {
  Mesh::Sizes sizes;
  for (int& size : sizes) size = *rc::gen::inRange(1, 4);
  const int ranks = product(sizes);
  std::set<std::array<int, kAxisCount>> places;
  for (const Axis axis : kAllAxes) {
    std::map<int, std::vector<Mesh>> groups;
    for (int rank = 0; rank < ranks; ++rank) groups[Mesh(sizes, rank).colour(axis)].emplace_back(sizes, rank);
    RC_ASSERT(static_cast<int>(groups.size()) * sizes[static_cast<size_t>(axis)] == ranks);
    for (const auto& [colour, group] : groups) {
      RC_ASSERT(colour >= 0);
      RC_ASSERT(static_cast<int>(group.size()) == sizes[static_cast<size_t>(axis)]);
      for (size_t i = 0; i < group.size(); ++i) {
        RC_ASSERT(group[i].coordinate(axis) == static_cast<int>(i));
        for (const Axis other : kAllAxes)
          if (other != axis) RC_ASSERT(group[i].coordinate(other) == group[0].coordinate(other));
      }
    }
  }
  for (int rank = 0; rank < ranks; ++rank) {
    std::array<int, kAxisCount> place;
    for (const Axis axis : kAllAxes) place[static_cast<size_t>(axis)] = Mesh(sizes, rank).coordinate(axis);
    places.insert(place);
  }
  RC_ASSERT(static_cast<int>(places.size()) == ranks);
}

TEST(LocalShape, DividesShardedDimsOnly) {
  const Mesh mesh({2, 1, 1, 4, 1}, 3);
  TensorSpec spec{{6, 8, 5}, DType::f32};
  EXPECT_EQ(local_shape(spec, mesh), (Shape{6, 8, 5}));
  spec.placements = with(spec.placements, Axis::dp, Shard(0));
  EXPECT_EQ(local_shape(spec, mesh), (Shape{3, 8, 5}));
  spec.placements = with(spec.placements, Axis::tp, Shard(1));
  EXPECT_EQ(local_shape(spec, mesh), (Shape{3, 2, 5}));
  spec.placements = with(spec.placements, Axis::dp, Shard(1));
  EXPECT_EQ(local_shape(spec, mesh), (Shape{6, 1, 5})) << "one dim over two axes";
  spec.placements = with(spec.placements, Axis::dp, Partial);
  EXPECT_EQ(local_shape(spec, mesh), (Shape{6, 2, 5})) << "an addend is as large as the sum";
  EXPECT_EQ(local_shape(spec, Mesh{}), spec.shape) << "axes of one rank divide nothing";
}

TEST(LocalShape, NamesWhatDoesNotDivide) {
  const Mesh mesh({1, 1, 1, 4, 1}, 0);
  const TensorSpec spec{{6, 10}, DType::f32, with({}, Axis::tp, Shard(1))};
  const std::string refusal = support::refusal_of(ExitCode::config, [&] { local_shape(spec, mesh); });
  for (const char* part : {"dim 1", "10", "4 ranks", "tp"}) EXPECT_THAT(refusal, HasSubstr(part));
  EXPECT_THROW(local_shape({{8}, DType::f32, with({}, Axis::tp, Shard(1))}, mesh), Error) << "there is no dim 1";
}

TEST(Placement, DualsAndNames) {
  EXPECT_EQ(dual_of(Replicate), Replicate);
  EXPECT_EQ(dual_of(Partial), Replicate);
  EXPECT_EQ(dual_of(Shard(2)), Shard(2));
  EXPECT_EQ(to_string(Shard(2)) + to_string(Partial) + to_string(Replicate), "S(2)PR");
  EXPECT_EQ(to_string(TensorSpec{{2, 3}, DType::f32, with({}, Axis::tp, Shard(1))}), "f32[2, 3] tp:S(1)");
}

/// Over cp a dim is dealt in zigzag, and tp cuts what that leaves: together all ranks hold each element once, each rank
/// as much as its local shape says, and tp ranks one after another have what the rank of cp holds.
TEST(LocalRuns, DealAndCutEveryElementOnce) {
  for (const int cp : {1, 2, 3, 4})
    for (const int tp : {1, 2, 3, 4}) {
      const int64_t extent = 24 * cp * tp;
      const TensorSpec spec{{2, extent}, DType::f32, with(with({}, Axis::cp, Shard(1)), Axis::tp, Shard(1))};
      std::vector<int> holders(static_cast<size_t>(extent));
      for (int rank = 0; rank < cp * tp; ++rank) {
        const Mesh mesh({1, 1, cp, tp, 1}, rank);
        int64_t count = 0;
        for (const Extent& run : local_runs(spec, 1, mesh)) {
          EXPECT_GT(run.count, 0);
          for (int64_t i = run.first; i < run.first + run.count; ++i) ++holders[static_cast<size_t>(i)];
          count += run.count;
        }
        EXPECT_EQ(count, local_shape(spec, mesh)[1]);
        EXPECT_EQ(local_runs(spec, 0, mesh).at(0).count, 2) << "a dim that nobody divides";
      }
      EXPECT_EQ(holders, std::vector<int>(static_cast<size_t>(extent), 1)) << cp << " x " << tp;
    }
}

TEST(LocalRuns, AreTheChunksInTheirOrder) {
  const TensorSpec spec{{32}, DType::f32, with(with({}, Axis::cp, Shard(0)), Axis::tp, Shard(0))};
  const auto runs = [&](int cp, int tp, int rank) {
    std::vector<std::pair<int64_t, int64_t>> found;
    for (const Extent& run : local_runs(spec, 0, Mesh({1, 1, cp, tp, 1}, rank)))
      found.push_back({run.first, run.count});
    return found;
  };
  using Runs = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(runs(2, 1, 0), (Runs{{0, 8}, {24, 8}}));
  EXPECT_EQ(runs(2, 1, 1), (Runs{{8, 8}, {16, 8}}));
  EXPECT_EQ(runs(4, 1, 3), (Runs{{12, 4}, {16, 4}}));
  EXPECT_EQ(runs(2, 4, 1), (Runs{{4, 4}})) << "tp 1 of cp 0";
  EXPECT_EQ(runs(2, 4, 2), (Runs{{24, 4}}));
  EXPECT_EQ(runs(1, 4, 2), (Runs{{16, 8}}));
}

TEST(LocalRuns, WantTwoChunksForEachRankOfCp) {
  const TensorSpec spec{{10}, DType::f32, with({}, Axis::cp, Shard(0))};
  EXPECT_EQ(local_shape(spec, Mesh({1, 1, 5, 1, 1}, 0)), Shape{2});
  EXPECT_THAT(support::outcome_of([&] {
                local_shape(spec, Mesh({1, 1, 2, 1, 1}, 0));
              }).message,
              HasSubstr("two chunks"));
}

}  // namespace
}  // namespace capstan
