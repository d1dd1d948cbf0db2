// label: ranks
// Heartbeats of ranks that are threads: who stands still is named by the lowest rank and all are told to end; who
// moves, leaves or only reports late is left alone; and a stranger at the port is put out.
#include "parallel/heartbeat.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <chrono>
#include <future>
#include <mutex>
#include <thread>

#include "parallel/heartbeat_hub.h"
#include "parallel/rank_threads.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// What the ranks of one job said, and which were told to end.
struct Ears {
  std::mutex mutex;
  std::vector<std::string> said;
  std::atomic<int> ended{0};
  HeartbeatVoice voice(int rank) {
    return {[this, rank](const std::string& text) {
              const std::lock_guard lock(mutex);
              said.push_back(std::to_string(rank) + " says: " + text);
            },
            [this] { ++ended; }};
  }
};

// A watcher takes a rank for silent after 0.4 of this; a loaded machine keeps a thread waiting longer than one expects.
constexpr double kCeiling = 5;

TEST(Heartbeat, NamesTheRankThatStandsStill) {
  Ears ears;
  run_rank_threads(3, [&](Communicator& world) {
    FlightRecorder recorder(world.rank(), world.size(), kCeiling);
    const Heartbeat heartbeat(world, recorder, "/nonexistent", ears.voice(world.rank()));
    recorder.phase(Phase::step, 8);
    if (world.rank() != 1) recorder.enter_collective("all-reduce");
    const auto limit = Clock::now() + 60s;
    while (ears.ended < 3 && Clock::now() < limit) std::this_thread::sleep_for(5ms);
  });
  EXPECT_GE(ears.ended, 3);
  ASSERT_EQ(ears.said.size(), 1u) << "one table for all";
  EXPECT_THAT(ears.said[0], HasSubstr("0 says: nothing has moved for"));
  EXPECT_THAT(ears.said[0], HasSubstr("rank 1 on "));
  EXPECT_THAT(ears.said[0],
              HasSubstr("stands still while the others wait, in step; ranks 0,2 wait in step: all-reduce"));
}

TEST(Heartbeat, LeavesAloneWhatMoves) {
  Ears ears;
  run_rank_threads(2, [&](Communicator& world) {
    FlightRecorder recorder(world.rank(), world.size(), kCeiling);
    const Heartbeat heartbeat(world, recorder, "/nonexistent", ears.voice(world.rank()));
    recorder.phase(Phase::step, 0);
    const auto end = Clock::now() + std::chrono::duration<double>(1.3 * kCeiling);
    for (int i = 0; Clock::now() < end; ++i) {
      if (world.rank() == 0) recorder.phase(Phase::step, i);  // rank 1 stands still, but not all do
      std::this_thread::sleep_for(100ms);
    }
  });
  EXPECT_EQ(ears.ended, 0);
  EXPECT_TRUE(ears.said.empty()) << ears.said[0];
}

TEST(Heartbeat, WaitsForEverWhenToldTo) {
  Ears ears;
  run_rank_threads(2, [&](Communicator& world) {
    FlightRecorder recorder(world.rank(), world.size(), 0);
    const Heartbeat heartbeat(world, recorder, "/nonexistent", ears.voice(world.rank()));
    recorder.enter_collective("barrier");
    std::this_thread::sleep_for(7s);  // longer than a launcher has when a rank is gone
  });
  EXPECT_EQ(ears.ended, 0);
  EXPECT_TRUE(ears.said.empty()) << ears.said[0];
}

TEST(Heartbeat, WhoSaysGoodbyeIsNotMissed) {
  Ears ears;
  run_rank_threads(3, [&](Communicator& world) {
    FlightRecorder recorder(world.rank(), world.size(), 0);
    {
      const Heartbeat heartbeat(world, recorder, "/nonexistent", ears.voice(world.rank()));
      if (world.rank() == 2) std::this_thread::sleep_for(1s);  // rank 0 and 1 leave at once
    }
  });
  EXPECT_EQ(ears.ended, 0);
  EXPECT_TRUE(ears.said.empty()) << ears.said[0];
}

/// Readings travel with the heartbeats; a rank without a GPU says nothing.
TEST(Heartbeat, TellsRankZeroOfAllGpus) {
  Ears ears;
  run_rank_threads(6, [&](Communicator& world) {
    FlightRecorder recorder(world.rank(), world.size(), kCeiling);
    const Heartbeat heartbeat(world, recorder, "/nonexistent", ears.voice(world.rank()));
    const int rank = world.rank();
    if (rank < 5)
      recorder.gpus().tell(reading_of({1e9 * (rank + 1), 1500.0 - rank, 50.0 + rank, 1.0, rank == 4 ? "heat" : ""}));
    const auto limit = Clock::now() + 30s;
    const auto heard = [&] {
      const auto all = recorder.gpus().all();
      return all && all->ranks == 5;
    };
    while (rank == 0 && !heard() && Clock::now() < limit) std::this_thread::sleep_for(5ms);
    world.barrier();
    if (rank == 5) EXPECT_FALSE(recorder.gpus().all()) << "nobody reports to it";
    if (rank != 0) return;
    const GpuSummary all = recorder.gpus().all().value_or(GpuSummary{});
    EXPECT_EQ(all.ranks, 5);
    EXPECT_EQ(all.most_memory_bytes, 5e9);
    EXPECT_EQ(all.slowest_clock_mhz, 1496.0);
    EXPECT_EQ(all.hottest, 54.0);
    EXPECT_EQ(all.throttled, "heat: 4");
  });
}

// --- the watcher's port

class Port : public ::testing::Test {
 protected:
  Port() : hub_(context_, 2, keys_, true, 60, [this] { ++lost_; }) {
    thread_ = std::thread([this] { context_.run(); });
  }
  ~Port() override {
    context_.stop();
    thread_.join();
  }
  int connect() const {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET, address.sin_port = htons(static_cast<uint16_t>(hub_.port()));
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const timeval patience{10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
  }
  /// Bytes of the hub's answer; 0: it closed the connection.
  ssize_t introduce(int fd, const HeartbeatHello& hello) const {
    EXPECT_EQ(::send(fd, &hello, sizeof hello, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof hello));
    HeartbeatKey answer;
    const ssize_t got = ::recv(fd, answer.data(), answer.size(), MSG_WAITALL);
    if (got > 0) EXPECT_EQ(answer, keys_.of_watchers);
    return std::max<ssize_t>(got, 0);
  }
  HeartbeatHello hello(int rank) const {
    HeartbeatHello one;
    one.key = keys_.of_ranks, one.rank = rank;
    return one;
  }
  template <typename Condition>
  bool soon(Condition condition) {
    for (int turn = 0; turn < 2000 && !condition(); ++turn) std::this_thread::sleep_for(5ms);
    return condition();
  }
  RankView::Link link_of(int rank) {
    std::promise<RankView::Link> found;
    boost::asio::post(context_, [&] { found.set_value(hub_.views()[static_cast<size_t>(rank)].link); });
    return found.get_future().get();
  }

  static HeartbeatKeys made_keys() {
    HeartbeatKeys keys;
    keys.of_ranks.fill(3), keys.of_watchers.fill(5);
    return keys;
  }
  boost::asio::io_context context_{1};
  HeartbeatKeys keys_ = made_keys();
  std::atomic<int> lost_{0};
  HeartbeatHub hub_;
  std::thread thread_;
};

TEST_F(Port, PutsStrangersOut) {
  HeartbeatHello wrong_key = hello(1), wrong_rank = hello(2), negative = hello(-1), wrong_magic = hello(1),
                 endless = hello(1);
  wrong_key.key[15] ^= 1, wrong_magic.magic[0] = 'x', endless.host.fill('h');
  for (const HeartbeatHello& bad : {wrong_key, wrong_rank, negative, wrong_magic, endless}) {
    const int fd = connect();
    EXPECT_EQ(introduce(fd, bad), 0);
    ::close(fd);
  }
  const int quiet = connect();  // says nothing and goes
  ::close(quiet);
  EXPECT_EQ(link_of(1), RankView::Link::unheard);
  EXPECT_EQ(lost_, 0);
}

TEST_F(Port, ARankThatGoesWithoutAGoodbyeIsLostAndMayComeBack) {
  const int fd = connect();
  ASSERT_EQ(introduce(fd, hello(1)), 16);
  HeartbeatReport report;
  ::send(fd, &report, sizeof report, MSG_NOSIGNAL);
  EXPECT_TRUE(soon([&] { return link_of(1) == RankView::Link::heard; }));
  ::close(fd);
  EXPECT_TRUE(soon([&] { return lost_ == 1; }));
  EXPECT_EQ(link_of(1), RankView::Link::lost);
  const int again = connect();
  ASSERT_EQ(introduce(again, hello(1)), 16);
  EXPECT_TRUE(soon([&] { return link_of(1) == RankView::Link::heard; }));
  report.kind = HeartbeatReport::goodbye;
  ::send(again, &report, sizeof report, MSG_NOSIGNAL);
  ::close(again);
  EXPECT_TRUE(soon([&] { return link_of(1) == RankView::Link::left; }));
  EXPECT_EQ(lost_, 1);
}

TEST_F(Port, AReportThatNobodyMadeEndsTheConnection) {
  HeartbeatReport no_end, no_place, no_reason, odd_reason;
  no_end.position.label.op.fill('x');
  no_place.position.place = static_cast<FlightPlace>(9);
  no_reason.gpu.throttled.fill('x');
  odd_reason.gpu.throttled[0] = '\n';
  int bad = 0;
  for (const HeartbeatReport& wild : {no_end, no_place, no_reason, odd_reason}) {
    const int fd = connect();
    ASSERT_EQ(introduce(fd, hello(1)), 16);
    ::send(fd, &wild, sizeof wild, MSG_NOSIGNAL);
    ++bad;
    EXPECT_TRUE(soon([&] { return lost_ == bad; })) << bad;
    ::close(fd);
  }
}

}  // namespace
}  // namespace capstan
