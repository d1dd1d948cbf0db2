// label: ranks
// Every check of the suite over threads as ranks; and what only threads can show: failures of one rank reach the
// others.
#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>

#include "parallel/rank_threads.h"
#include "tests/parallel/communicator_suite.h"

namespace capstan {
namespace {

using suite::Check;

class ThreadCommunicatorSuite : public testing::TestWithParam<std::tuple<int, Check>> {};

TEST_P(ThreadCommunicatorSuite, Passes) {
  const auto& [ranks, check] = GetParam();
  run_rank_threads(ranks, check.run);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadCommunicatorSuite,
                         testing::Combine(testing::Values(1, 2, 3, 4), testing::ValuesIn(suite::checks())),
                         [](const auto& test) {
                           return fmt::format("{}Of{}", std::get<1>(test.param).name, std::get<0>(test.param));
                         });

TEST(ThreadCommunicator, ManyRanksSumInTheOrderOfTheTree) {
  for (int ranks : {5, 6, 7, 9, 16})
    run_rank_threads(ranks, [](Communicator& group) {
      suite::all_reduce_of<float>(group, 3000, ReduceOp::sum);
      suite::reduce_scatter_of<float>(group, 3000, Reduction::ordered);
    });
}

TEST(SelfCommunicator, IsTheIdentity) {
  auto self = self_communicator();
  EXPECT_EQ(self->transport(), "self");
  for (const Check& check : suite::checks()) {
    SCOPED_TRACE(check.name);
    EXPECT_NO_THROW(check.run(*self));
  }
  int x = 0;
  EXPECT_THROW(self->send(&x, sizeof x, 0), Error);
}

/// Runs a job that must fail; returns what each rank threw ("" for nothing) and what the caller saw.
struct Failures {
  std::vector<std::string> by_rank;
  std::string first;
  ExitCode code = ExitCode::done;
};

Failures run_failing(int ranks, const std::function<void(Communicator&)>& body, double hang_seconds = 20) {
  Failures seen;
  seen.by_rank.resize(static_cast<size_t>(ranks));
  try {
    run_rank_threads(ranks,
                     [&](Communicator& group) {
                       try {
                         body(group);
                       } catch (const std::exception& e) {
                         seen.by_rank[static_cast<size_t>(group.rank())] = e.what();
                         throw;
                       }
                     },
                     {.hang_seconds = hang_seconds});
  } catch (const Error& e) {
    seen.first = e.what();
    seen.code = e.code();
  } catch (const std::exception& e) {
    seen.first = e.what();
  }
  return seen;
}

void barriers_for_ever(Communicator& group) {
  for (;;) group.barrier();
}

TEST(RankThreads, OneFailureEndsAll) {
  const Failures seen = run_failing(4, [](Communicator& group) {
    if (group.rank() == 2) throw Error(ExitCode::bad_data, "shard 7 is torn");
    barriers_for_ever(group);
  });
  EXPECT_EQ(seen.first, "shard 7 is torn");
  EXPECT_EQ(seen.code, ExitCode::bad_data);
  for (int r : {0, 1, 3}) EXPECT_EQ(seen.by_rank[static_cast<size_t>(r)], "rank 2 failed: shard 7 is torn");
}

TEST(RankThreads, AFailureReachesReceiversAndPartsOfTheGroup) {
  const Failures seen = run_failing(4, [](Communicator& group) {
    auto part = group.split(group.rank() == 3, 0);
    if (group.rank() == 3) throw std::runtime_error("no more paper");
    if (group.rank() == 0) {
      int x;
      group.receive(&x, sizeof x, 3);
    }
    barriers_for_ever(*part);
  });
  EXPECT_EQ(seen.first, "no more paper");
  for (int r : {0, 1, 2}) EXPECT_EQ(seen.by_rank[static_cast<size_t>(r)], "rank 3 failed: no more paper");
}

TEST(RankThreads, AFailureReachesARankAtItsNextCall) {
  std::atomic<bool> failed = false;
  const Failures seen = run_failing(2, [&](Communicator& group) {
    if (group.rank() == 1) {
      group.abort("asked to", 70);
      failed = true;
      throw std::runtime_error("asked to");
    }
    while (!failed) std::this_thread::yield();
    int x = 0;
    group.send(&x, sizeof x, 1);  // would not have to wait
  });
  EXPECT_EQ(seen.by_rank[0], "rank 1 failed: asked to");
}

TEST(RankThreads, AHangNamesWhereEveryRankStands) {
  const Failures seen = run_failing(
      3,
      [](Communicator& group) {
        group.barrier();
        std::vector<float> v(1000);
        if (group.rank() != 1) group.all_reduce(v.data(), v.size(), DType::f32, ReduceOp::sum, Reduction::ordered);
      },
      1.5);
  EXPECT_EQ(seen.code, ExitCode::peer_lost);
  EXPECT_NE(seen.first.find("hang"), std::string::npos) << seen.first;
  EXPECT_NE(seen.first.find("rank 0 is in call 2, all_reduce of 1000 x f32 (sum, ordered)"), std::string::npos)
      << seen.first;
  EXPECT_NE(seen.first.find("rank 1 is outside, its last was call 1, barrier"), std::string::npos) << seen.first;
}

TEST(RankThreads, AHangInAPartNamesRanksOfTheWorld) {
  const Failures seen = run_failing(
      4,
      [](Communicator& group) {
        auto part = group.split(group.rank() / 2, 0);
        int x = 0;
        if (group.rank() == 3) part->receive(&x, sizeof x, 0);
      },
      1.5);
  EXPECT_NE(seen.first.find("rank 3 is in call 1, receive of 4 bytes from rank 0"), std::string::npos) << seen.first;
  EXPECT_NE(seen.first.find("rank 2 has made no call yet"), std::string::npos) << seen.first;
}

void expect_mismatch(const std::function<void(Communicator&)>& body, const std::string& one, const std::string& two) {
  const Failures seen = run_failing(2, body);
  EXPECT_EQ(seen.code, ExitCode::internal);
  EXPECT_NE(seen.first.find(one), std::string::npos) << seen.first;
  EXPECT_NE(seen.first.find(two), std::string::npos) << seen.first;
}

TEST(RankThreads, DifferentCallsAreToldApart) {
  std::vector<double> a(8), b(8);
  const auto buffer = [&](Communicator& g) { return g.rank() == 0 ? a.data() : b.data(); };
  const auto sum = [&](Communicator& g, size_t count, DType t, ReduceOp op) {
    g.all_reduce(buffer(g), count, t, op, Reduction::fast);
  };
  expect_mismatch([&](Communicator& g) { g.rank() ? g.barrier() : sum(g, 2, DType::f32, ReduceOp::sum); }, "barrier",
                  "all_reduce of 2 x f32");
  expect_mismatch([&](Communicator& g) { sum(g, g.rank() ? 2 : 3, DType::f32, ReduceOp::sum); }, "of 2 x", "of 3 x");
  expect_mismatch([&](Communicator& g) { sum(g, 2, g.rank() ? DType::f32 : DType::i32, ReduceOp::sum); }, "f32", "i32");
  expect_mismatch([&](Communicator& g) { sum(g, 2, DType::f32, g.rank() ? ReduceOp::sum : ReduceOp::max); }, "sum",
                  "max");
  expect_mismatch([&](Communicator& g) { g.broadcast(buffer(g), 8, g.rank()); }, "from rank 0", "from rank 1");
  expect_mismatch([&](Communicator& g) { g.rank() ? g.send(buffer(g), 8, 0) : g.receive(buffer(g), 16, 1); },
                  "16 bytes", "sends 8");
}

TEST(RankThreads, RefusesATypeThatCannotBeSummed) {
  const Failures seen = run_failing(2, [](Communicator& group) {
    uint8_t x = 1;
    group.all_reduce(&x, 1, DType::u8, ReduceOp::sum, Reduction::fast);
  });
  EXPECT_EQ(seen.code, ExitCode::internal);
  EXPECT_NE(seen.first.find("got u8"), std::string::npos) << seen.first;
}

TEST(RankThreads, EachRankHasOneOpenMpThread) {
  run_rank_threads(2, [](Communicator&) { suite::require(omp_get_max_threads() == 1, "wanted one thread"); });
  run_rank_threads(2, [](Communicator&) { suite::require(omp_get_max_threads() == 3, "wanted three threads"); },
                   {.omp_threads = 3});
}

}  // namespace
}  // namespace capstan
