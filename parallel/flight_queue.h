#pragma once
// FlightQueue: what a device still has to do, as far as it was queued: the last few thousand stretches of ops by their
// running numbers, in a ring that is taken once. The thread that queues adds; any other may look one up while the ring
// is written, and finds the one that it asks for or the oldest that is still kept.

#include <atomic>
#include <cstdint>
#include <vector>

#include "parallel/flight_record.h"

namespace capstan {

struct QueuedStretch {
  const FlightLabel* first = nullptr;  ///< labels that outlive the queue
  const FlightLabel* last = nullptr;
  int64_t step = 0, microbatch = -1;
  uint64_t collectives = 0;
  bool waits = false;  ///< in it are ops that wait for other ranks
};

class FlightQueue {
 public:
  static constexpr size_t kKept = 4096;

  explicit FlightQueue(size_t kept = kKept) : slots_(kept) {}

  /// Numbers ascend by one.
  void add(uint64_t number, const QueuedStretch& stretch);
  uint64_t last() const { return last_.load(std::memory_order_acquire); }
  /// The first of which the device is not past when it is past `passed`: its number, or 0 when there is none. A larger
  /// number than passed + 1 says that those before it are not kept any more.
  uint64_t find_after(uint64_t passed, QueuedStretch& found) const;

 private:
  struct Slot {
    std::atomic<uint64_t> number{0};  ///< 0 while it is written
    std::atomic<const FlightLabel*> first{nullptr}, last{nullptr};
    std::atomic<int64_t> step{0}, microbatch{0};
    std::atomic<uint64_t> collectives{0};
    std::atomic<bool> waits{false};
  };
  bool read(uint64_t number, QueuedStretch& found) const;

  std::atomic<uint64_t> first_{0}, last_{0};
  std::vector<Slot> slots_;
};

}  // namespace capstan
