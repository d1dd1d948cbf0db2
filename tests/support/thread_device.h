#pragma once
// A device that is a set of threads of this process: every stream is a queue with a thread that works it off, so that
// what runs beside what is as loose as on a device, and a missing wait shows. Its memory is the host's. "Kernels" are
// functions that are put into a stream. A stream may also be made to run at once, on the thread that queues.

#include <omp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/copy.h"
#include "kernels/device.h"
#include "kernels/reduce_tree.h"
#include "parallel/reduction_tree.h"

namespace capstan::testing {

/// Runs what is pushed, in order, each after a pause of up to `jitter`.
class ThreadStream {
 public:
  ThreadStream(bool at_once, std::chrono::microseconds jitter, unsigned seed)
      : at_once_(at_once), jitter_(jitter), random_(seed) {
    if (!at_once_) thread_ = std::thread([this] { loop(); });
  }
  ~ThreadStream() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  ThreadStream(const ThreadStream&) = delete;
  ThreadStream& operator=(const ThreadStream&) = delete;

  void push(std::function<void()> work) {
    if (captured_ != nullptr) return captured_->push_back(std::move(work));
    if (at_once_) return work();
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  /// Keeps what is pushed from here on instead; null ends that. By the thread that pushes.
  void capture(std::vector<std::function<void()>>* into) { captured_ = into; }
  bool captures() const { return captured_ != nullptr; }
  /// What a pushed function threw.
  void rethrow() {
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void loop() {
    omp_set_num_threads(1);
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ending_ || !queue_.empty(); });
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      if (jitter_.count() > 0 && random_() % 8 == 0)
        std::this_thread::sleep_for(jitter_ * static_cast<long>(random_() % 100) / 100);
      try {
        work();
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }

  const bool at_once_;
  const std::chrono::microseconds jitter_;
  std::minstd_rand random_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::function<void()>>* captured_ = nullptr;
  std::exception_ptr failure_;
  bool ending_ = false;
  std::thread thread_;
};

/// At the end of this stream; at once where there is none.
inline void enqueue(kernels::Stream stream, std::function<void()> work) {
  if (stream == nullptr) return work();
  static_cast<ThreadStream*>(stream)->push(std::move(work));
}

class ThreadDevice final : public kernels::DeviceRuntime {
 public:
  struct Options {
    bool main_at_once = false;
    std::chrono::microseconds jitter{0};
    unsigned seed = 1;
    double hang_seconds = 60;
  };
  explicit ThreadDevice(Options options) : options_(options), main_(open(options.main_at_once)) {}
  ThreadDevice() : ThreadDevice(Options{}) {}

  kernels::DeviceFacts facts() const override {
    kernels::DeviceFacts facts;
    facts.name = "threads", facts.memory_bytes = kMemory;
    const std::lock_guard lock(mutex_);
    facts.free_bytes = kMemory - taken_;
    return facts;
  }
  kernels::DeviceState state() const override { return {}; }

  void* allocate(size_t bytes) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0, bytes);
    const std::lock_guard lock(mutex_);
    sizes_[memory] = bytes, taken_ += bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    const std::lock_guard lock(mutex_);
    taken_ -= sizes_[memory];
    sizes_.erase(memory);
    std::free(memory);
  }
  size_t taken() const { return kMemory - facts().free_bytes; }
  void* allocate_pinned(size_t bytes) override { return allocate(bytes); }
  void release_pinned(void* memory) noexcept override { release(memory); }

  void copy_in(void* device, const void* host, size_t bytes, kernels::Stream stream) override {
    enqueue(stream, [=] { std::memcpy(device, host, bytes); });
  }
  void copy_out(void* host, const void* device, size_t bytes, kernels::Stream stream) override {
    enqueue(stream, [=] { std::memcpy(host, device, bytes); });
  }

  void write_number(uint64_t* pinned, uint64_t number, kernels::Stream stream) override {
    enqueue(stream, [=] { std::atomic_ref(*pinned).store(number, std::memory_order_release); });
  }

  kernels::Stream main_stream() const override { return main_; }
  kernels::Stream open_stream() override { return open(false); }
  kernels::Event make_event() override {
    return reinterpret_cast<kernels::Event>(events_.emplace_back(std::make_unique<Event>()).get());
  }
  void record(kernels::Event handle, kernels::Stream stream) override {
    refuse_in_capture(stream);
    auto* event = reinterpret_cast<Event*>(handle);
    uint64_t number = 0;
    {
      const std::lock_guard lock(event->mutex);
      number = ++event->recorded;
    }
    enqueue(stream, [=] {
      const std::lock_guard lock(event->mutex);
      event->past = number;
      event->changed.notify_all();
    });
  }
  void wait(kernels::Stream stream, kernels::Event handle) override {
    refuse_in_capture(stream);
    auto* event = reinterpret_cast<Event*>(handle);
    uint64_t number = 0;
    {
      const std::lock_guard lock(event->mutex);
      number = event->recorded;
    }
    enqueue(stream, [this, event, number] { wait_for(*event, number); });
  }
  bool is_past(kernels::Event handle) const override {
    auto* event = reinterpret_cast<Event*>(handle);
    const std::lock_guard lock(event->mutex);
    return event->past == event->recorded;
  }
  void finish(kernels::Event handle) const override {
    auto* event = reinterpret_cast<Event*>(handle);
    wait_for(*event, event->recorded);
  }
  void finish(kernels::Stream stream) const override {
    const auto shared = std::make_shared<Event>();
    shared->recorded = 1;
    enqueue(stream, [shared] {
      const std::lock_guard lock(shared->mutex);
      shared->past = 1;
      shared->changed.notify_all();
    });
    wait_for(*shared, 1);
    static_cast<ThreadStream*>(stream)->rethrow();
  }
  double seconds_between(kernels::Event, kernels::Event) const override { return 0; }

  void begin_capture(kernels::Stream stream) override {
    captured_.clear();
    static_cast<ThreadStream*>(stream)->capture(&captured_);
  }
  std::unique_ptr<kernels::DeviceGraph> end_capture(kernels::Stream stream) override {
    static_cast<ThreadStream*>(stream)->capture(nullptr);
    return std::make_unique<Graph>(std::exchange(captured_, {}));
  }
  void drop_capture(kernels::Stream stream) noexcept override {
    static_cast<ThreadStream*>(stream)->capture(nullptr);
    captured_.clear();
  }
  void push_range(const char*) override {}
  void pop_range() override {}

 private:
  static constexpr size_t kMemory = size_t{1} << 34;
  struct Event {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t recorded = 0, past = 0;
  };
  class Graph final : public kernels::DeviceGraph {
   public:
    explicit Graph(std::vector<std::function<void()>> work) : work_(std::move(work)) {}
    void launch(kernels::Stream stream) override {
      for (const auto& work : work_) static_cast<ThreadStream*>(stream)->push(work);
    }

   private:
    std::vector<std::function<void()>> work_;
  };
  ThreadStream* open(bool at_once) {
    const auto seed = options_.seed * 100 + static_cast<unsigned>(streams_.size());
    return streams_.emplace_back(std::make_unique<ThreadStream>(at_once, options_.jitter, seed)).get();
  }
  static void refuse_in_capture(kernels::Stream stream) {
    if (static_cast<ThreadStream*>(stream)->captures())
      throw std::logic_error("an event of streams that wait for each other is part of a captured graph");
  }
  void wait_for(Event& event, uint64_t number) const {
    std::unique_lock lock(event.mutex);
    if (!event.changed.wait_for(lock, std::chrono::duration<double>(options_.hang_seconds),
                                [&] { return event.past >= number; }))
      throw std::runtime_error("hang: a stream or the host has waited too long for an event");
  }

  Options options_;
  mutable std::mutex mutex_;
  std::map<void*, size_t> sizes_;
  size_t taken_ = 0;
  std::vector<std::function<void()>> captured_;
  std::vector<std::unique_ptr<Event>> events_;
  std::vector<std::unique_ptr<ThreadStream>> streams_;
  ThreadStream* main_;
};

inline void thread_copy(const kernels::CopyArgs& a) {
  enqueue(a.stream, [a] {
    for (int64_t r = 0; r < a.rows; ++r)
      std::memcpy(static_cast<char*>(a.to) + static_cast<size_t>(r) * a.to_stride,
                  static_cast<const char*>(a.from) + static_cast<size_t>(r) * a.from_stride, a.row_bytes);
  });
}

inline void thread_reduce_tree(const kernels::ReduceTreeArgs& a) {
  enqueue(a.stream, [a] {
    std::vector<const void*> inputs;
    for (int r = 0; r < a.ranks; ++r)
      inputs.push_back(r == a.own ? a.own_input
                                  : static_cast<const char*>(a.inputs) + static_cast<size_t>(r) * a.stride);
    reduce_tree(a.out, inputs.data(), a.ranks, static_cast<size_t>(a.count), a.dtype,
                a.max ? ReduceOp::max : ReduceOp::sum);
  });
}

}  // namespace capstan::testing
