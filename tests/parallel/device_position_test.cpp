// label: ranks, links: capstan_nccl_emulated
// Where a rank stands when its device is far behind what the host has queued: the flight recorder names the stretch of
// ops that the device has not finished, op by op and in graphs, moves when the device moves, and stands still when it
// does not. Streams are threads, which are held.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <map>

#include "parallel/flight_recorder.h"
#include "parallel/heartbeat.h"
#include "parallel/stream_lane.h"
#include "tests/support/nccl_ranks.h"
#include "tests/support/queued_backend.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using namespace std::chrono_literals;

const kernels::Backend& queued() {
  static const kernels::Backend backend = queued_backend();
  return backend;
}

template <typename Condition>
bool soon(Condition condition) {
  for (int turn = 0; turn < 2000 && !condition(); ++turn) std::this_thread::sleep_for(5ms);
  return condition();
}

/// Holds a stream where it is put, until it is opened.
class Gate {
 public:
  void put_into(kernels::Stream stream) const {
    enqueue(stream, [opened = opened_] { opened.wait(); });
  }
  void open() {
    if (!std::exchange(is_open_, true)) opening_.set_value();
  }

 private:
  bool is_open_ = false;
  std::promise<void> opening_;
  std::shared_future<void> opened_ = opening_.get_future().share();
};

/// Has the host wait for the device in the third step, in whose microbatches the gates stand.
class HeldTraining {
 public:
  static constexpr int64_t kMicrobatches = 3, kStep = 2;
  explicit HeldTraining(bool capture, double ceiling = 60)
      : training_(spec(), queued(), *self_, 1, 1, 1, 1, {}, &device_, capture), recorder_(0, 1, ceiling) {
    recorder_.observe(training_.program());
  }
  ~HeldTraining() {
    for (auto& [m, gate] : gates_) gate.open();
    if (host_.valid()) host_.wait();
  }

  FlightRecorder& recorder() { return recorder_; }
  Program& program() { return training_.program(); }
  Gate& gate(int64_t m) { return gates_[m]; }
  void run() {
    host_ = std::async(std::launch::async, [this] {
      for (int64_t step = 0; step <= kStep; ++step) {
        recorder_.phase(Phase::step, step);
        training_.prepare(step, 1e-2);
        training_.training().run_microbatches([&](int64_t m) {
          if (step == kStep && gates_.contains(m)) gates_[m].put_into(device_.main_stream());
          training_.fill_microbatch(step, m);
        });
        training_.training().finish_step();
      }
      recorder_.phase(Phase::log, kStep + 1);
    });
  }
  void join() { host_.get(); }
  /// The host has queued all it can and waits.
  bool stands_still() {
    uint64_t before = 0;
    return soon([&] {  // in a device of threads a millisecond is long
      const uint64_t now = recorder_.moves();
      const bool still = now == std::exchange(before, now) && recorder_.position().step == kStep;
      std::this_thread::sleep_for(60ms);
      return still;
    });
  }

 private:
  static TrainingSpec spec() {
    TrainingSpec spec = tiny_spec(tiny_gpt(), Precision::fp32);
    spec.microbatches = kMicrobatches;
    return spec;
  }
  std::unique_ptr<Communicator> self_ = self_communicator();
  ThreadDevice device_;
  TinyTraining training_;
  FlightRecorder recorder_;
  std::map<int64_t, Gate> gates_;
  std::future<void> host_;
};

class DevicePosition : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Captured, DevicePosition, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "InGraphs" : "OpByOp"; });

TEST_P(DevicePosition, IsTheStretchThatIsHeldNotTheLastThatWasQueued) {
  HeldTraining held(GetParam());
  Gate& gate = held.gate(1);
  held.run();
  ASSERT_TRUE(held.stands_still());
  const FlightPosition at = held.recorder().position();
  EXPECT_EQ(at.place, FlightPlace::device);
  EXPECT_STREQ(at.label.part.data(), "forward");
  EXPECT_EQ(at.microbatch, 1);
  EXPECT_EQ(at.step, HeldTraining::kStep);
  EXPECT_EQ(at.phase, Phase::step);
  EXPECT_EQ(at.state, FlightState::working);
  EXPECT_THAT(at.describe(), HasSubstr("train forward, microbatch 1: on the GPU, from embedding"));
  EXPECT_THAT(at.describe(), HasSubstr(", to "));
  gate.open();
  held.join();
  EXPECT_EQ(held.recorder().position().place, FlightPlace::host);
  EXPECT_EQ(held.recorder().position().describe(), "log");
}

/// The host waits all the time.
TEST_P(DevicePosition, AdvancesWithTheDeviceWhileTheHostWaits) {
  HeldTraining held(GetParam());
  Gate &first = held.gate(1), &second = held.gate(2);
  held.run();
  ASSERT_TRUE(held.stands_still());
  const uint64_t stuck = held.recorder().moves();
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(held.recorder().moves(), stuck) << "nothing moves, neither host nor device";
  first.open();
  EXPECT_TRUE(soon([&] { return held.recorder().position().microbatch == 2; }));
  EXPECT_GT(held.recorder().moves(), stuck);
  ASSERT_TRUE(held.stands_still());
  EXPECT_THAT(held.recorder().position().describe(), HasSubstr("train forward, microbatch 2: on the GPU"));
  second.open();
  held.join();
}

TEST_P(DevicePosition, IsFoundInTheFileAndInsideAReport) {
  const support::TemporaryDirectory directory;
  const std::filesystem::path folder = directory.path();
  HeldTraining held(GetParam());
  ASSERT_EQ(held.recorder().attach(flight_file(folder, 0)), "");
  Gate& gate = held.gate(1);
  held.run();
  ASSERT_TRUE(held.stands_still());
  held.recorder().looked(true);
  const auto file = read_flight_file(flight_file(folder, 0));
  ASSERT_TRUE(file);
  EXPECT_EQ(file->position.describe(), held.recorder().position().describe());
  EXPECT_THAT(file->position.describe(), HasSubstr("on the GPU"));
  gate.open();
  held.join();
  held.recorder().looked(true);
  EXPECT_THAT(read_flight_file(flight_file(folder, 0))->position.describe(), Not(HasSubstr("GPU")));
}

/// What the watch does with it: the host waits for the device in both, for longer than the ceiling.
class WatchedDevice : public ::testing::Test {
 protected:
  static constexpr double kCeiling = 2.5;
  HeartbeatVoice voice() {
    return {[this](const std::string& text) {
              const std::lock_guard lock(mutex_);
              said_ += text;
            },
            [this] { ended_ = true; }};
  }
  std::string said() {
    const std::lock_guard lock(mutex_);
    return said_;
  }
  std::unique_ptr<Communicator> world_ = self_communicator();
  std::mutex mutex_;
  std::string said_;
  std::atomic<bool> ended_{false};
  HeldTraining held_{true, kCeiling};
};

TEST_F(WatchedDevice, ThatMovesIsLeftAlone) {
  for (const int64_t m : {1, 2}) held_.gate(m);  // at the first the host would wait too, and go on when it opens
  const Heartbeat heartbeat(*world_, held_.recorder(), "/nonexistent", voice());
  held_.run();
  ASSERT_TRUE(held_.stands_still());
  for (const int64_t m : {1, 2}) {
    std::this_thread::sleep_for(std::chrono::duration<double>(0.65 * kCeiling));
    held_.gate(m).open();
  }
  held_.join();
  EXPECT_FALSE(ended_) << said();
}

TEST_F(WatchedDevice, ThatStandsStillIsNamed) {
  held_.gate(1);
  const Heartbeat heartbeat(*world_, held_.recorder(), "/nonexistent", voice());
  held_.run();
  EXPECT_TRUE(soon([&] { return ended_.load(); }));
  EXPECT_THAT(said(),
              HasSubstr("stands still while the others wait, in train forward, microbatch 1: on the GPU, from"));
}

TEST(DevicePositionOfAProgram, IsNoneOnceTheProgramIsGone) {
  FlightRecorder recorder(0, 1, 60);
  {
    ThreadDevice device;
    const auto self = self_communicator();
    TinyTraining training(tiny_spec(tiny_gpt(), Precision::fp32), queued(), *self, 1, 1, 1, 1, {}, &device);
    recorder.observe(training.program());
    training.step(0);
  }
  EXPECT_EQ(recorder.position().place, FlightPlace::host);
  EXPECT_GT(recorder.moves(), 0u);
}

/// Rank 1 begins the fifth step and does no more: rank 0's device stands in what the lane should bring.
TEST(DevicePositionOfALane, NamesTheCollectiveThatNobodyAnswers) {
  nccl_over_threads(60);
  std::atomic<bool> come{false};
  std::string at;
  FlightState state{};
  run_nccl_ranks(2, [&](const NcclRank& rank) {
    const kernels::Stream beside = rank.device.open_stream();
    const auto world = rank.group(), lane_world = rank.session.group(rank.control, beside);
    const auto make_lane = [&](std::shared_ptr<const AxisGroups> groups) {
      return std::make_unique<StreamLane>(rank.device, beside, rank.device.main_stream(), std::move(groups));
    };
    TinyTraining training(tiny_spec(tiny_gpt(), Precision::fp32), queued(), *world, 1, 1, 1, 1, make_lane, &rank.device,
                          true, lane_world.get());
    FlightRecorder recorder(rank.control.rank(), 2, 60);
    recorder.observe(training.program());
    for (int i = 0; i < 4; ++i) training.step(i);
    if (rank.control.rank() == 1) {
      training.prepare(4, 1e-2);
      soon([&] { return come.load(); });
      training.accumulate(4, true);
      training.training().finish_step();
    } else {
      std::thread watcher([&] {
        soon([&] {
          const uint64_t before = recorder.moves();
          std::this_thread::sleep_for(60ms);
          return recorder.moves() == before && recorder.position().place == FlightPlace::device;
        });
        at = recorder.position().describe(), state = recorder.position().state;
        come = true;
      });
      training.step(4);
      watcher.join();
    }
    training.program().finish();
    rank.control.barrier();
  });
  EXPECT_THAT(at, HasSubstr("on the GPU, in reduce-scatter dp"));
  EXPECT_EQ(state, FlightState::waiting);
}

TEST(FlightQueue, FindsTheFirstThatIsNotPassedOrTheOldestItKeeps) {
  FlightQueue queue;
  const FlightLabel label;
  QueuedStretch found;
  EXPECT_EQ(queue.find_after(0, found), 0u);
  const auto add = [&](uint64_t number) { queue.add(number, {&label, &label, static_cast<int64_t>(number)}); };
  add(8);  // it was told of the device late
  EXPECT_EQ(queue.find_after(3, found), 8u);
  EXPECT_EQ(queue.find_after(8, found), 0u);
  for (uint64_t n = 9; n <= 3 * FlightQueue::kKept; ++n) add(n);
  EXPECT_EQ(queue.find_after(3 * FlightQueue::kKept - 2, found), 3 * FlightQueue::kKept - 1);
  EXPECT_EQ(found.step, static_cast<int64_t>(3 * FlightQueue::kKept - 1));
  EXPECT_EQ(queue.find_after(100, found), 2 * FlightQueue::kKept + 1) << "the oldest that is kept";
  EXPECT_EQ(found.step, static_cast<int64_t>(2 * FlightQueue::kKept + 1));
}

/// A slot whose fields do not belong together was read while it was written.
TEST(FlightQueue, IsNeverReadHalf) {
  FlightQueue queue(1);
  const FlightLabel label;
  std::atomic<bool> done{false};
  std::atomic<int64_t> read{0};
  int64_t torn = 0;
  std::thread reader([&] {
    while (!done) {
      QueuedStretch found;
      const uint64_t number = queue.find_after(0, found);
      if (number == 0) continue;
      ++read;
      torn += found.step != found.microbatch || found.step != static_cast<int64_t>(number);
    }
  });
  for (int64_t n = 1; read < 400000; ++n) queue.add(static_cast<uint64_t>(n), {&label, &label, n, n});
  done = true;
  reader.join();
  EXPECT_EQ(torn, 0);
}

}  // namespace
}  // namespace capstan::testing
