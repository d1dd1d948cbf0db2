#include "parallel/shared_window_wait.h"

#include <sched.h>

#include <algorithm>
#include <thread>

#include "core/error.h"

namespace capstan {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds
constexpr double kYieldSeconds = 1e-3;
constexpr std::chrono::microseconds kNap{50};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void GroupFault::raise(const std::string& message) {
  std::lock_guard lock(mutex_);
  if (raised_.load(std::memory_order_relaxed)) return;
  message_ = message;
  raised_.store(true, std::memory_order_release);
}

void GroupFault::throw_if_raised() const {
  if (!raised_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  throw Error(ExitCode::peer_lost, message_);
}

bool Waiter::pause() {
  if (!policy_.oversubscribed && ++turns_ < kSpins) {
    relax();
    return true;
  }
  return pause_slowly();
}

bool Waiter::pause_slowly() {
  if (policy_.fault) policy_.fault->throw_if_raised();
  if (start_ == Clock::time_point{}) start_ = Clock::now();
  const double waited = seconds();
  if (policy_.hang_seconds > 0 && waited >= policy_.hang_seconds) return false;
  if (waited < kYieldSeconds)
    sched_yield();
  else
    std::this_thread::sleep_for(kNap);
  return true;
}

double Waiter::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

bool fewer_cores_than(int ranks) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof mine, &mine) != 0)
    return static_cast<int>(std::thread::hardware_concurrency()) < ranks;
  return CPU_COUNT(&mine) < ranks;
}

}  // namespace capstan
