// label: ranks
// A lane that is a stream, over a device whose streams are threads: what is posted comes after what computation has
// queued, and before what waits for it, and the host waits for neither.
#include <gtest/gtest.h>

#include <atomic>

#include "parallel/stream_lane.h"
#include "tests/support/thread_device.h"

namespace capstan::testing {
namespace {

using namespace std::chrono_literals;

/// An op that does something on the stream it is told.
std::function<void(const RunArgs&)> op(std::function<void()> work) {
  return [work](const RunArgs& args) { enqueue(args.stream, work); };
}

struct Fixture {
  explicit Fixture(ThreadDevice::Options options = {}) : device(options) {}
  ThreadDevice device;
  kernels::Stream main = device.main_stream();
  StreamLane lane{device, device.open_stream(), main, nullptr};
};

TEST(StreamLane, AnOpComesAfterWhatComputationHasQueued) {
  Fixture f;
  std::atomic<bool> open = false;
  int value = 0, seen = -1;
  enqueue(f.main, [&] {
    while (!open) std::this_thread::sleep_for(1ms);
    value = 7;
  });
  const auto look = op([&] { seen = value; });
  EXPECT_EQ(f.lane.post(look, {}), 1u);  // returns although nothing has run
  EXPECT_EQ(f.lane.done(), 0u);
  open = true;
  f.device.finish(f.lane.stream());
  EXPECT_EQ(seen, 7);
  EXPECT_EQ(f.lane.done(), 1u);
}

TEST(StreamLane, WhoWaitsComesAfterTheOpAndTheHostGoesOn) {
  Fixture f;
  std::atomic<bool> open = false;
  int value = 0, seen = -1, before = -1;
  const auto slow = op([&] {
    while (!open) std::this_thread::sleep_for(1ms);
    value = 7;
  });
  const uint64_t number = f.lane.post(slow, {});
  enqueue(f.main, [&] { before = value; });  // computation goes on beside it
  f.device.finish(f.main);
  EXPECT_EQ(before, 0);
  f.lane.wait(number);
  enqueue(f.main, [&] { seen = value; });
  open = true;  // only now: the host has not waited
  f.device.finish(f.main);
  EXPECT_EQ(seen, 7);
}

TEST(StreamLane, OpsRunInTheOrderOfPosts) {
  Fixture f({.jitter = 200us});
  std::vector<int> order;
  std::vector<std::function<void(const RunArgs&)>> ops;
  for (int i = 0; i < 300; ++i) ops.push_back(op([&order, i] { order.push_back(i); }));
  uint64_t last = 0;
  for (const auto& run : ops) last = f.lane.post(run, {});
  f.lane.wait(last);
  f.device.finish(f.main);
  ASSERT_EQ(order.size(), 300u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(f.lane.done(), last);
}

/// Events are used again: more ops than there are, with waits for old ones between.
TEST(StreamLane, ThousandsOfOps) {
  Fixture f;
  std::atomic<uint64_t> ran = 0;
  const auto count = op([&] { ++ran; });
  for (uint64_t i = 1; i <= 10000; ++i) {
    ASSERT_EQ(f.lane.post(count, {}), i);
    if (i % 1000 != 0) continue;
    uint64_t seen = 0;
    f.lane.wait(i - 500);
    enqueue(f.main, [&] { seen = ran; });
    f.device.finish(f.main);
    EXPECT_GE(seen, i - 500);
  }
  f.device.finish(f.lane.stream());
  EXPECT_EQ(f.lane.done(), 10000u);
  EXPECT_EQ(ran, 10000u);
}

TEST(StreamLane, WhatAnOpThrowsComesOutOfThePost) {
  Fixture f;
  const std::function<void(const RunArgs&)> bad = [](const RunArgs&) { throw std::runtime_error("no more paper"); };
  EXPECT_THROW(f.lane.post(bad, {}), std::runtime_error);
}

TEST(StreamLane, AnAbandonedLaneIsNotWaitedForAndKeepsWhatItNeeds) {
  std::weak_ptr<int> watched;
  std::atomic<bool> open = false;
  ThreadDevice device;
  const auto slow = op([&] {
    while (!open) std::this_thread::sleep_for(1ms);
  });
  {
    StreamLane lane(device, device.open_stream(), device.main_stream(), nullptr);
    lane.post(slow, {});
    auto needed = std::make_shared<int>(1);
    watched = needed;
    lane.abandon(std::move(needed));
  }
  EXPECT_FALSE(watched.expired());
  open = true;
}

}  // namespace
}  // namespace capstan::testing
