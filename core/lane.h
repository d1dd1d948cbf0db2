#pragma once
// Lane: runs ops that communicate while the rank computes, one after another in the order in which they were posted.
// Which ops go there, when they are posted and who waits for them is the plan's (core/passes/overlap.h), so that all
// ranks of a group post alike. parallel/lane_thread.h is a thread; a GPU has a stream.

#include <cstdint>
#include <functional>
#include <memory>

#include "core/op.h"

namespace capstan {

class Lane {
 public:
  virtual ~Lane() = default;
  /// Takes one op and returns at once with its number: 1, 2, and so on. What the arguments point to stays as it is
  /// until that number has been waited for.
  virtual uint64_t post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) = 0;
  /// The number of the last op that is done with all before it.
  virtual uint64_t done() const = 0;
  /// Returns when that op is done. Throws what an op before it has thrown.
  virtual void wait(uint64_t number) = 0;
  /// Of a rank that fails: nobody waits for the lane any more, which may itself wait for ranks that never answer. What
  /// its ops need stays alive until it has ended.
  virtual void abandon(std::shared_ptr<void> needed) = 0;
};

}  // namespace capstan
