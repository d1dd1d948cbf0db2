// label: ranks, links: capstan_nccl_emulated
// Every check of the suite over NCCL groups of ranks that are threads with streams of their own; and what only they can
// show: calls do not wait on the host, failures reach all ranks, memory is given back.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "parallel/nccl_communicator.h"
#include "tests/parallel/communicator_suite.h"
#include "tests/support/nccl_ranks.h"

namespace capstan::testing {
namespace {

using suite::Check;

class NcclSuite : public ::testing::TestWithParam<std::tuple<int, bool, Check>> {};

TEST_P(NcclSuite, Passes) {
  const auto& [ranks, blocking, check] = GetParam();
  nccl_over_threads();
  NcclRanksOptions options;
  options.nccl.blocking = blocking;
  options.nccl.scratch_bytes = 20000;  // the suite's arrays are summed in several pieces
  options.nccl.watch_seconds = 0.05;
  options.device.jitter = std::chrono::microseconds(100);
  run_nccl_ranks(
      ranks,
      [&, run = check.run](const NcclRank& rank) {
        const auto group = rank.host_side();
        run(*group);
      },
      options);
}

std::string name_of_suite(const ::testing::TestParamInfo<std::tuple<int, bool, Check>>& test) {
  const auto& [ranks, blocking, check] = test.param;
  return fmt::format("{}Of{}{}", check.name, ranks, blocking ? "" : "Polled");
}

INSTANTIATE_TEST_SUITE_P(Nccl, NcclSuite,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4), ::testing::Values(true),
                                            ::testing::ValuesIn(suite::checks())),
                         name_of_suite);
INSTANTIATE_TEST_SUITE_P(NotBlocking, NcclSuite,
                         ::testing::Combine(::testing::Values(3), ::testing::Values(false),
                                            ::testing::ValuesIn(suite::checks())),
                         name_of_suite);

TEST(Nccl, ManyRanksSumInTheOrderOfTheTree) {
  nccl_over_threads();
  for (const int ranks : {5, 6, 7, 8})
    run_nccl_ranks(ranks, [](const NcclRank& rank) {
      const auto group = rank.host_side();
      suite::all_reduce_of<float>(*group, 3001, ReduceOp::sum);
      suite::all_reduce_of<BFloat16>(*group, 3001, ReduceOp::sum);
      suite::reduce_scatter_of<float>(*group, 3001, Reduction::ordered);
    });
}

TEST(Nccl, MaximaKeepANanInEveryOrder) {
  nccl_over_threads();
  run_nccl_ranks(3, [](const NcclRank& rank) {
    const auto group = rank.host_side();
    for (const int owner : {0, 1, 2}) {
      std::vector<double> v(5000, rank.control.rank());
      if (group->rank() == owner) v[4999] = NAN;
      group->all_reduce(v.data(), v.size(), DType::f64, ReduceOp::max, Reduction::fast);
      suite::require(std::isnan(v[4999]) && v[0] == 2, "a NaN of one rank must reach all");
    }
  });
}

/// The second rank makes its calls only when the first has made all of its own.
TEST(Nccl, CallsDoNotWaitOnTheHost) {
  nccl_over_threads();
  std::atomic<bool> called = false;
  run_nccl_ranks(2, [&](const NcclRank& rank) {
    const auto group = rank.group();
    const auto paths = group->open_channels({{0, 1, 4000}, {1, 0, 4000}}, 2);
    rank.session.warm_up(*group);  // NCCL's hosts wait for each other in the first call of a kind
    float* data = static_cast<float*>(rank.device.allocate(40000));
    if (rank.control.rank() == 1)
      while (!called) std::this_thread::yield();
    for (const Reduction order : {Reduction::fast, Reduction::ordered})
      group->all_reduce(data, 1000, DType::f32, ReduceOp::sum, order);
    group->reduce_scatter(data, data + 5000, 1000, DType::f32, Reduction::ordered);
    group->all_gather(data, data + 5000, 1000, DType::f32);
    group->all_to_all(data, data + 5000, 1000, DType::f32);
    group->shift(data, data + 5000, 4000, 1);
    group->broadcast(data, 4000, 1);
    group->barrier();
    for (int i = 0; i < 5; ++i) {  // more than fit into the path
      rank.control.rank() == 0 ? paths->put(0, data) : paths->take(0, data);
      rank.control.rank() == 1 ? paths->put(1, data) : paths->take(1, data);
    }
    called = true;
    rank.device.finish(rank.device.main_stream());
    rank.control.barrier();
    rank.device.release(data);
  });
}

/// A schedule may let two stages send to each other before either receives; the first messages are no exception.
TEST(Nccl, TwoStagesMaySendToEachOtherFirst) {
  nccl_over_threads(2);
  run_nccl_ranks(2, [](const NcclRank& rank) {
    const auto group = rank.group();
    const auto paths = group->open_channels({{0, 1, 64}, {1, 0, 64}, {0, 1, 0}}, 2);
    void* data = rank.device.allocate(64);
    paths->put(rank.control.rank(), data);
    paths->take(1 - rank.control.rank(), data);
    rank.device.finish(rank.device.main_stream());
    rank.control.barrier();
    rank.device.release(data);
  });
}

/// Computation goes on while messages wait in the path, and stands still where it is full.
TEST(Nccl, APathHoldsAsManyMessagesAsItIsDeep) {
  nccl_over_threads();
  run_nccl_ranks(2, [](const NcclRank& rank) {
    const auto group = rank.group();
    const auto paths = group->open_channels({{0, 1, 64}}, 2);
    void* data = rank.device.allocate(64);
    kernels::Event second = rank.device.make_event(), third = rank.device.make_event();
    if (rank.control.rank() == 0) {
      paths->put(0, data), paths->put(0, data);
      rank.device.record(second, rank.device.main_stream());
      paths->put(0, data);
      rank.device.record(third, rank.device.main_stream());
      rank.device.finish(second);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      suite::require(!rank.device.is_past(third), "a third message went into a path of two");
    }
    rank.control.barrier();
    if (rank.control.rank() == 1)
      for (int i = 0; i < 3; ++i) paths->take(0, data);
    rank.device.finish(rank.device.main_stream());
    rank.control.barrier();
    rank.device.release(data);
  });
}

/// Messages run ahead of a receiver that is busy, but never over one that it has not copied out.
TEST(Nccl, AMessageStaysInItsSlotUntilItIsCopiedOut) {
  nccl_over_threads();
  run_nccl_ranks(2, [](const NcclRank& rank) {
    const auto group = rank.group();
    constexpr int kMessages = 7;
    const auto paths = group->open_channels({{0, 1, sizeof(int32_t)}}, 2);
    auto* data = static_cast<int32_t*>(rank.device.allocate(kMessages * sizeof(int32_t)));
    if (rank.control.rank() == 1)
      enqueue(rank.device.main_stream(), [] { std::this_thread::sleep_for(std::chrono::milliseconds(100)); });
    for (int i = 0; i < kMessages; ++i)
      if (rank.control.rank() == 0) {
        enqueue(rank.device.main_stream(), [=] { data[i] = 100 + i; });
        paths->put(0, data + i);
      } else {
        paths->take(0, data + i);
      }
    rank.device.finish(rank.device.main_stream());
    for (int i = 0; i < kMessages; ++i) EXPECT_EQ(data[i], 100 + i);
    rank.control.barrier();
    rank.device.release(data);
  });
}

TEST(Nccl, GroupsOnTwoStreamsDoNotWaitForEachOther) {
  nccl_over_threads();
  run_nccl_ranks(2, [](const NcclRank& rank) {
    const kernels::Stream lane = rank.device.open_stream();
    const auto main = rank.group(), beside = rank.session.group(rank.control, lane);
    int32_t* data = static_cast<int32_t*>(rank.device.allocate(512));
    // The first to be called on the lane comes last to its peer; the main stream goes on meanwhile.
    if (rank.control.rank() == 0) beside->all_reduce(data, 1, DType::i32, ReduceOp::sum, Reduction::fast);
    main->all_reduce(data + 64, 1, DType::i32, ReduceOp::sum, Reduction::fast);
    rank.device.finish(rank.device.main_stream());
    rank.control.barrier();
    if (rank.control.rank() == 1) beside->all_reduce(data, 1, DType::i32, ReduceOp::sum, Reduction::fast);
    rank.device.finish(lane);
    rank.control.barrier();
    rank.device.release(data);
  });
}

TEST(Nccl, GivesBackWhatItTook) {
  nccl_over_threads();
  run_nccl_ranks(4, [](const NcclRank& rank) {
    const size_t before = rank.device.taken();
    void* arena = rank.device.allocate(1 << 16);
    {
      auto whole = rank.group();
      rank.session.register_memory(arena, 1 << 16);
      const auto half = whole->split(rank.control.rank() / 2, 0);
      const auto alone = whole->split(rank.control.rank(), 0);
      EXPECT_EQ(alone->size(), 1);
      const auto paths = half->open_channels({{0, 1, 1000}}, 2);
      EXPECT_EQ(rank.session.bytes(), (size_t{1} << 20) + 256 + 2 * 1024) << "scratch and two slots";
      rank.session.warm_up(*whole);
      EXPECT_EQ(rank.session.bytes(), (size_t{1} << 20) + 256 + 2 * 1024);
      rank.control.barrier();
      EXPECT_EQ(emulated_nccl::alive().communicators, 4 + 4 + 4) << "none for groups of one";
      EXPECT_EQ(emulated_nccl::alive().registrations, 4 + 4 + 4) << "the arena twice, and the slots";
      rank.control.barrier();
      rank.session.forget_memory(arena);
    }
    EXPECT_EQ(rank.session.bytes(), 0u);
    rank.device.release(arena);
    EXPECT_EQ(rank.device.taken(), before);
    rank.control.barrier();
  });
  EXPECT_EQ(emulated_nccl::alive().communicators, 0);
  EXPECT_EQ(emulated_nccl::alive().registrations, 0);
}

// ---- failures

/// What each rank threw; "" for nothing.
std::vector<std::string> run_failing(int ranks, const std::function<void(const NcclRank&)>& body,
                                     NcclRanksOptions options = {}) {
  std::vector<std::string> thrown(static_cast<size_t>(ranks));
  if (options.nccl.watch_seconds >= 1) options.nccl.watch_seconds = 0.02;
  try {
    run_nccl_ranks(
        ranks,
        [&](const NcclRank& rank) {
          try {
            body(rank);
          } catch (const std::exception& e) {
            thrown[static_cast<size_t>(rank.control.rank())] = e.what();
            throw;
          }
        },
        options);
  } catch (const std::exception&) {
  }
  return thrown;
}

void sum_for_ever(const NcclRank& rank, Communicator& group, void* data) {
  for (;;) {
    group.all_reduce(data, 16, DType::f32, ReduceOp::sum, Reduction::fast);
    rank.device.finish(rank.device.main_stream());
  }
}

TEST(Nccl, AFailureEndsTheWaitsOfAll) {
  nccl_over_threads();
  const auto thrown = run_failing(3, [](const NcclRank& rank) {
    const std::unique_ptr<void, std::function<void(void*)>> data(rank.device.allocate(64),
                                                                 [&](void* p) { rank.device.release(p); });
    const auto group = rank.group();
    group->barrier();
    rank.device.finish(rank.device.main_stream());
    if (rank.control.rank() == 1) {
      group->abort("shard 7 is torn", 65);
      throw Error(ExitCode::bad_data, "shard 7 is torn");
    }
    sum_for_ever(rank, *group, data.get());
  });
  EXPECT_EQ(thrown[1], "shard 7 is torn");
  for (const size_t r : {0u, 2u}) {
    // At whichever of its calls it was told.
    EXPECT_NE(thrown[r].find(fmt::format("NCCL: rank {} ({} of 3 in its group), ", r, r)), std::string::npos)
        << thrown[r];
    EXPECT_NE(thrown[r].find("rank 1 has aborted"), std::string::npos) << thrown[r];
    EXPECT_NE(thrown[r].find("a peer or the network to it is gone"), std::string::npos) << thrown[r];
  }
}

/// NCCL ends no communicator while a graph holds its calls, and the graphs go when the rank unwinds: so that comes
/// first.
TEST(Nccl, AFailureDoesNotWaitForGraphs) {
  nccl_over_threads();
  std::atomic<bool> graphs = false;
  emulated_nccl::switches().graphs = &graphs;
  const emulated_nccl::Alive before = emulated_nccl::alive();
  const auto thrown = run_failing(2, [&](const NcclRank& rank) {
    const std::unique_ptr<void, std::function<void(void*)>> data(rank.device.allocate(64),
                                                                 [&](void* p) { rank.device.release(p); });
    const auto whole = rank.group(), part = whole->split(0, 0);
    rank.control.barrier();
    graphs = true;
    if (rank.control.rank() == 1) {
      whole->abort("shard 7 is torn", 65);
      throw Error(ExitCode::bad_data, "shard 7 is torn");
    }
    sum_for_ever(rank, *part, data.get());
  });
  EXPECT_EQ(thrown[1], "shard 7 is torn");
  EXPECT_NE(thrown[0].find("rank 1 has aborted"), std::string::npos) << thrown[0];
  EXPECT_GT(emulated_nccl::alive().communicators, before.communicators) << "they wait for the graphs";
  graphs = false;
  for (int i = 0; i < 2000 && emulated_nccl::alive().communicators > before.communicators; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(emulated_nccl::alive().communicators, before.communicators);
  EXPECT_EQ(emulated_nccl::alive().aborted_alone, 0) << "one that is ended alone may stand behind another";
  emulated_nccl::switches().graphs = nullptr;
}

TEST(Nccl, TheWatcherTellsWhatNoCallReturned) {
  nccl_over_threads();
  std::atomic<int> told = 0;
  std::atomic<bool> called = false;
  NcclRanksOptions options;
  options.nccl.failed = [&](const std::string& message) {
    if (message.find("rank 0") != std::string::npos) ++told;
  };
  run_failing(
      2,
      [&](const NcclRank& rank) {
        const auto group = rank.group();
        void* data = rank.device.allocate(64);
        if (rank.control.rank() == 1) {
          while (!called) std::this_thread::yield();  // else the call itself tells rank 0
          group->abort("asked to", 70);
        } else {
          group->all_reduce(data, 16, DType::f32, ReduceOp::sum, Reduction::fast);
          called = true;
          rank.device.finish(rank.device.main_stream());  // ends, though its peer never came
          while (rank.session.failure().empty()) std::this_thread::yield();
        }
        rank.device.release(data);
        EXPECT_THROW(group->barrier(), Error);
      },
      options);
  EXPECT_EQ(told, 1);
}

TEST(Nccl, CallsThatDoNotMatchAreNamed) {
  nccl_over_threads();
  const auto thrown = run_failing(2, [](const NcclRank& rank) {
    const std::unique_ptr<void, std::function<void(void*)>> data(rank.device.allocate(256),
                                                                 [&](void* p) { rank.device.release(p); });
    const auto group = rank.group();
    group->all_reduce(data.get(), rank.control.rank() == 0 ? 3 : 2, DType::f32, ReduceOp::sum, Reduction::fast);
    sum_for_ever(rank, *group, data.get());
  });
  for (const std::string& text : thrown)
    for (const char* part : {"all-reduce of 3 elements", "all-reduce of 2 elements"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(Nccl, APeerThatNeverComesIsNamed) {
  nccl_over_threads();
  NcclRanksOptions options;
  options.nccl.blocking = false, options.nccl.hang_seconds = 0.3;
  std::atomic<bool> ended = false;
  const auto thrown = run_failing(
      2,
      [&](const NcclRank& rank) {
        const auto group = rank.group();
        if (rank.control.rank() == 1) {
          rank.control.split(0, 0);  // of the control group alone
          while (!ended) std::this_thread::yield();
          return;
        }
        try {
          group->split(0, 0);
        } catch (...) {
          ended = true;
          throw;
        }
      },
      options);
  EXPECT_NE(thrown[0].find("hang: rank 0 (0 of 2 in its group) has waited 0.3 s in split of 2 ranks of NCCL"),
            std::string::npos)
      << thrown[0];
}

TEST(Nccl, ALibraryThatOrdersNoCallsIsRefused) {
  nccl_over_threads();
  EXPECT_NO_THROW(NcclSession::require());
  emulated_nccl::switches().version = NCCL_VERSION(2, 21, 5);
  try {
    NcclSession::require();
    ADD_FAILURE() << "2.21.5 was taken";
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("NCCL 2.21.5 was found, 2.26 or newer is needed"), std::string::npos);
  }
}

TEST(Nccl, RefusesWhatCannotBe) {
  nccl_over_threads();
  run_nccl_ranks(2, [](const NcclRank& rank) {
    const auto group = rank.group();
    uint8_t x = 0;
    EXPECT_THROW(group->all_reduce(&x, 1, DType::u8, ReduceOp::sum, Reduction::fast), Error);
    EXPECT_THROW(group->send(&x, 1, rank.control.rank()), Error);
    EXPECT_THROW(group->receive(&x, 1, 2), Error);
    EXPECT_THROW(group->broadcast(&x, 1, -1), Error);
    EXPECT_THROW(group->open_channels({{0, 2, 8}}, 2), Error);
    rank.control.barrier();
  });
}

}  // namespace
}  // namespace capstan::testing
