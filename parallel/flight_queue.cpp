#include "parallel/flight_queue.h"

#include <algorithm>

namespace capstan {

void FlightQueue::add(uint64_t number, const QueuedStretch& stretch) {
  Slot& slot = slots_[number % slots_.size()];
  slot.number.store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  slot.first.store(stretch.first, std::memory_order_relaxed);
  slot.last.store(stretch.last, std::memory_order_relaxed);
  slot.step.store(stretch.step, std::memory_order_relaxed);
  slot.microbatch.store(stretch.microbatch, std::memory_order_relaxed);
  slot.collectives.store(stretch.collectives, std::memory_order_relaxed);
  slot.waits.store(stretch.waits, std::memory_order_relaxed);
  slot.number.store(number, std::memory_order_release);
  if (first_.load(std::memory_order_relaxed) == 0) first_.store(number, std::memory_order_relaxed);
  last_.store(number, std::memory_order_release);
}

bool FlightQueue::read(uint64_t number, QueuedStretch& found) const {
  const Slot& slot = slots_[number % slots_.size()];
  if (slot.number.load(std::memory_order_acquire) != number) return false;
  found.first = slot.first.load(std::memory_order_relaxed);
  found.last = slot.last.load(std::memory_order_relaxed);
  found.step = slot.step.load(std::memory_order_relaxed);
  found.microbatch = slot.microbatch.load(std::memory_order_relaxed);
  found.collectives = slot.collectives.load(std::memory_order_relaxed);
  found.waits = slot.waits.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return slot.number.load(std::memory_order_relaxed) == number;
}

uint64_t FlightQueue::find_after(uint64_t passed, QueuedStretch& found) const {
  constexpr int kAttempts = 1000;  // each fails only when the ring has gone round meanwhile
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const uint64_t last = this->last();
    if (passed >= last) return 0;
    const uint64_t oldest =
        std::max(first_.load(std::memory_order_relaxed), last < slots_.size() ? 1 : last - slots_.size() + 1);
    const uint64_t number = std::max(passed + 1, oldest);
    if (read(number, found)) return number;
  }
  return 0;
}

}  // namespace capstan
