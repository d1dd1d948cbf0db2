#include "parallel/lane_thread.h"

#include <omp.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "parallel/quiet_thread.h"

namespace capstan {

struct LaneThread::State {
  struct Work {
    const std::function<void(const RunArgs&)>* run = nullptr;
    RunArgs args;
  };
  std::shared_ptr<const AxisGroups> groups;
  std::shared_ptr<void> needed;
  std::array<Work, 4096> ring;  ///< posted and not done
  std::mutex mutex;
  std::condition_variable posted_changed, done_changed;
  uint64_t posted = 0;
  std::atomic<uint64_t> done{0};
  std::exception_ptr failure;
  bool ending = false;     ///< once all is done
  bool abandoned = false;  ///< after the op at hand
  std::thread thread;
};

LaneThread::LaneThread(std::shared_ptr<const AxisGroups> groups)
    : state_(std::make_shared<State>()), exceptions_(std::uncaught_exceptions()) {
  state_->groups = std::move(groups);
  state_->thread = quiet_thread([state = state_] { loop(state); });
}

LaneThread::~LaneThread() {
  if (std::uncaught_exceptions() > exceptions_) abandon(nullptr);
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  state_->posted_changed.notify_one();
  if (state_->thread.joinable()) state_->thread.join();
}

uint64_t LaneThread::done() const { return state_->done.load(std::memory_order_acquire); }

uint64_t LaneThread::post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) {
  State& state = *state_;
  if (state.posted >= state.ring.size()) wait(state.posted + 1 - state.ring.size());
  uint64_t number = 0;
  {
    const std::lock_guard lock(state.mutex);
    state.ring[state.posted % state.ring.size()] = {&run, args};
    number = ++state.posted;
  }
  state.posted_changed.notify_one();
  return number;
}

void LaneThread::wait(uint64_t number) {
  std::unique_lock lock(state_->mutex);
  state_->done_changed.wait(lock, [&] { return done() >= number || state_->failure; });
  if (state_->failure) std::rethrow_exception(state_->failure);
}

void LaneThread::abandon(std::shared_ptr<void> needed) {
  {
    const std::lock_guard lock(state_->mutex);
    if (needed) state_->needed = std::move(needed);
    state_->abandoned = true;
  }
  state_->posted_changed.notify_one();
  if (state_->thread.joinable()) state_->thread.detach();
}

void LaneThread::loop(const std::shared_ptr<State>& held) {
  State& state = *held;
  omp_set_num_threads(1);  // the processors are for who computes
  for (uint64_t next = 0;; ++next) {
    State::Work work;
    {
      std::unique_lock lock(state.mutex);
      state.posted_changed.wait(lock, [&] { return state.posted > next || state.ending || state.abandoned; });
      if (state.posted <= next || state.abandoned) return;
      work = state.ring[next % state.ring.size()];
    }
    std::exception_ptr failure;
    try {
      (*work.run)(work.args);
    } catch (...) {
      failure = std::current_exception();
    }
    {
      const std::lock_guard lock(state.mutex);
      if (failure)
        state.failure = failure;
      else
        state.done.store(next + 1, std::memory_order_release);
    }
    state.done_changed.notify_one();
    if (failure) return;
  }
}

}  // namespace capstan
