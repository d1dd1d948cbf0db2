#pragma once
// How a rank waits for another over shared memory: it spins for some microseconds when every rank has a core, then
// yields, then sleeps in short naps. With more ranks than cores it yields at once, since the core it would spin on is
// the one the other rank needs. A wait ends early when a member of the group has failed, and at the latest after
// hang_seconds, so that no wait is without end.

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>

namespace capstan {

/// Shared by the threads of one job and all groups split from it: the first failure, which ends every wait.
class GroupFault {
 public:
  void raise(const std::string& message);  ///< the first message stays
  void throw_if_raised() const;            ///< Error(peer_lost) with that message

 private:
  std::atomic<bool> raised_{false};
  mutable std::mutex mutex_;
  std::string message_;
};

struct WaitPolicy {
  bool oversubscribed = false;          ///< more ranks than cores: never spin
  double hang_seconds = 60;             ///< a wait of this length is an error; 0: wait for ever
  std::shared_ptr<GroupFault> fault{};  ///< null between processes, where the launcher ends the job
};

class Waiter {
 public:
  explicit Waiter(const WaitPolicy& policy) : policy_(policy) {}
  bool pause();  ///< false: hang_seconds have passed. Throws when the group has failed.
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  bool pause_slowly();

  const WaitPolicy& policy_;
  int turns_ = 0;
  Clock::time_point start_{};
};

/// Whether this process may use fewer cores than `ranks`.
bool fewer_cores_than(int ranks);

}  // namespace capstan
