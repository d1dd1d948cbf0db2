#pragma once
// FlightRecorder: writes down where this rank stands, op by op (as the observer of its programs) and phase by phase (as
// the trainer tells it). Which microbatch an op belongs to is counted, not told: every part goes through the
// microbatches in ascending order, so the n-th time that the first op of a part is met is microbatch n.
// A device works on what the host has queued long before: the rank then stands at the first stretch of ops that the
// device has not finished, and moves when the device does, also while the host waits for it.
// Rule: one thread calls it; position(), moves() and limits() may be read by another.

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/program.h"
#include "parallel/flight_queue.h"
#include "parallel/flight_record.h"
#include "parallel/gpu_board.h"
#include "parallel/phase_limits.h"

namespace capstan {

class FlightRecorder final : public StepObserver {
 public:
  FlightRecorder(int rank, int ranks, double ceiling_seconds);

  /// From here on the record lies in this file, which is left behind. Where that is not possible it stays in memory,
  /// and the reason is returned.
  std::string attach(const std::filesystem::path& file);
  /// Makes the labels of a program's plans and watches it.
  void observe(Program& program);

  void phase(Phase phase, int64_t step);
  void before(const Plan& plan, size_t node) override;
  void after(const Plan& plan, size_t node) override;
  bool wants_every_op() const override { return false; }
  void replaying(const Plan& plan, const Stretch& nodes) override;
  void queued(const Plan& plan, const Stretch& nodes, uint64_t number) override;
  void waiting(const Plan& plan, size_t node) override;
  void waited(const Plan& plan, size_t node) override { after(plan, node); }
  /// A call to all ranks outside of any plan.
  void enter_collective(const char* name);
  void leave_collective();

  FlightPosition position() const;
  uint64_t moves() const;
  const PhaseLimits& limits() const { return limits_; }
  /// What goes along with the heartbeats.
  GpuBoard& gpus() { return gpus_; }
  /// The monitor thread has looked; `moved`: and found another position than the last time.
  void looked(bool moved);

 private:
  using Clock = std::chrono::steady_clock;
  struct Label {
    FlightLabel text;
    int sequence = -1;  ///< which replay of the plan it belongs to; -1: one that has no microbatches
    bool first = false, collective = false;
  };
  struct PlanLabels {
    std::vector<Label> nodes;
    std::vector<int64_t> replays;  ///< by sequence, in this phase
  };
  PlanLabels labels_of(const Plan& plan) const;
  void select(const Plan& plan);
  void know(const Plan& plan);
  void follow(std::shared_ptr<const DeviceProgress> progress);
  void add_device(FlightPosition& to) const;
  FlightRecord& record() const { return *current_.load(std::memory_order_acquire); }

  std::shared_ptr<FlightRecord> memory_, mapped_;  ///< the former stays: the monitor thread may be reading it
  std::atomic<FlightRecord*> current_;
  PhaseLimits limits_;
  GpuBoard gpus_;
  FlightPosition now_;
  Clock::time_point phase_began_;
  std::map<const Plan*, std::shared_ptr<PlanLabels>> plans_;
  std::vector<std::shared_ptr<PlanLabels>> left_;  ///< of plans that are gone: the queue points into them
  const Plan* plan_ = nullptr;
  PlanLabels* selected_ = nullptr;
  mutable std::mutex following_;                    ///< of what follows; to add to the queue takes none
  std::unique_ptr<FlightQueue> queue_;              ///< of the device that is followed
  std::shared_ptr<const DeviceProgress> progress_;  ///< null: plans run on the host
  uint64_t moved_before_ = 0;                       ///< by devices that were followed before
};

}  // namespace capstan
