#pragma once
// LaneThread: a lane (core/lane.h) that is a thread with communicators of its own. It makes their calls in the order in
// which they were posted. Nothing is allocated once it runs.
// Rules: one thread posts and waits. When an op throws, the ops behind it are not run, and every wait throws the same.
// A lane that is abandoned, or destroyed by an exception, is not waited for: its thread ends with the op at hand, which
// a peer that has ended answers with an error.

#include "core/axis_groups.h"
#include "core/lane.h"

namespace capstan {

class LaneThread final : public Lane {
 public:
  explicit LaneThread(std::shared_ptr<const AxisGroups> groups);
  ~LaneThread() override;

  uint64_t post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) override;
  uint64_t done() const override;
  void wait(uint64_t number) override;
  void abandon(std::shared_ptr<void> needed) override;

 private:
  struct State;
  static void loop(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;  ///< the thread's too
  int exceptions_;
};

}  // namespace capstan
