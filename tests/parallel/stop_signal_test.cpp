// label: cpu
// A stop is remembered, the old handlers come back, and a user who presses Ctrl-C again later gets out.
#include "parallel/stop_signal.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "core/error.h"

namespace capstan {
namespace {

TEST(StopSignal, RemembersEachOfTheThree) {
  const std::pair<int, const char*> cases[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGUSR1, "SIGUSR1"}};
  for (const auto& [number, name] : cases) {
    const StopSignal stop;
    EXPECT_FALSE(stop.requested());
    EXPECT_STREQ(stop.which(), "");
    raise(number);
    EXPECT_TRUE(stop.requested());
    EXPECT_STREQ(stop.which(), name);
  }
}

TEST(StopSignal, TheFirstIsTheOneNamed) {
  const StopSignal stop;
  raise(SIGUSR1);
  raise(SIGTERM);
  EXPECT_STREQ(stop.which(), "SIGUSR1");
}

volatile sig_atomic_t earlier_handler_ran = 0;
extern "C" void earlier_handler(int) { earlier_handler_ran = 1; }

TEST(StopSignal, PutsBackWhatWasThere) {
  auto* before = signal(SIGUSR1, earlier_handler);
  { const StopSignal stop; }
  raise(SIGUSR1);
  EXPECT_EQ(earlier_handler_ran, 1);
  signal(SIGUSR1, before);
}

TEST(StopSignal, OneAtATime) {
  const StopSignal stop;
  EXPECT_THROW(StopSignal{}, Error);
  raise(SIGTERM);
  EXPECT_TRUE(stop.requested());
}

void interrupt_twice(int milliseconds_between) {
  const StopSignal stop;
  raise(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_between));
  raise(SIGINT);
  _exit(stop.requested() ? 3 : 4);
}

TEST(StopSignalDeathTest, ASecondInterruptLaterEndsTheProcess) {
  EXPECT_EXIT(interrupt_twice(1100), testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignalDeathTest, TwoInterruptsAtOnceCountAsOne) {
  EXPECT_EXIT(interrupt_twice(10), testing::ExitedWithCode(3), "");
}

void interrupt_during_a_read() {
  const StopSignal stop;
  int ends[2];
  if (pipe(ends) != 0) _exit(1);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(getpid(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (write(ends[1], "x", 1) != 1) _exit(1);
  });
  char c = 0;
  const bool whole = read(ends[0], &c, 1) == 1 && c == 'x';
  writer.join();
  _exit(whole && stop.requested() ? 3 : 4);
}

TEST(StopSignalDeathTest, DoesNotCutAReadShort) {
  EXPECT_EXIT(interrupt_during_a_read(), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace capstan
