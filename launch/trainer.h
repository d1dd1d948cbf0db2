#pragma once
// Trainer: turns the wheel of one rank. Opens corpus and run directory, plans, resumes, steps, evaluates, checkpoints,
// and stops when all ranks agree to. What all ranks must agree on (stop, skip) travels in the step's own reductions.
// A step is queued, and its outcome taken later: with train.steps_ahead the next one is queued before, so that a device
// does not wait for its host. Rule: nothing is queued behind a step after which the state is saved, evaluated or left.

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "core/config/run_config.h"
#include "io/run_log.h"
#include "launch/background_save.h"
#include "launch/console.h"
#include "launch/data_feed.h"
#include "launch/device_meter.h"
#include "launch/memory_check.h"
#include "launch/noise_scale.h"
#include "launch/run_directory.h"
#include "launch/training_setup.h"
#include "launch/watch.h"
#include "parallel/stop_signal.h"

namespace capstan {

/// All ranks throw it together out of Trainer's constructor when any of them was asked to stop while the run starts,
/// which takes minutes where the model is large. No checkpoint has been written then, only the run directory may be
/// there.
struct StoppedAtStart {};

class Trainer {
 public:
  Trainer(RunConfig config, Watch& watch, const StopSignal& stop, Console& console);
  ~Trainer();

  /// Runs to train.steps. Returns 0, or 75 after a checkpoint on request. Throws Error(numerical) after too many bad
  /// steps in a row.
  int run();

 private:
  using Clock = std::chrono::steady_clock;
  /// A step whose result is not known yet.
  struct QueuedStep {
    int64_t index = 0;    ///< steps before it
    uint64_t cursor = 0;  ///< samples before it
    StepSetting setting;
    double data_seconds = 0.0;
    bool poisoned = false;  ///< by a failpoint
    Clock::time_point began{};
  };
  struct Taken {
    StepOutcome outcome;
    Clock::time_point at;
  };
  struct StepResult {
    StepOutcome outcome;
    double loss = 0.0, learning_rate = 0.0, seconds = 0.0, data_seconds = 0.0;
    bool stop = false;
    bool written = false;            ///< the save that is under way, by all ranks
    std::vector<int> bad_gradients;  ///< ranks, when the norm was not finite but every loss was
  };

  void open_corpora();
  void open_own_corpora();
  void make_directory();
  void make_program();
  void start_record();
  void announce() const;
  void leave_if_asked();
  MemoryNeed memory_need() const;
  void resume();
  void draw_weights();
  void announce_data(uint64_t planned) const;
  void write_data() const;
  void check_resumed(const TrainingState& state) const;
  void continue_data();
  uint64_t planned_samples() const;
  std::string numerics() const;

  void enter(Phase phase, int64_t step) { recorder_.phase(phase_ = phase, step); }
  void enter(Phase phase) { enter(phase, state_.step); }
  bool may_queue() const;
  void queue_step();
  void run_microbatches(const QueuedStep& step, bool reduce);
  Taken wait_for_outcome();
  Taken take_outcome();
  StepResult take_step();
  std::vector<int> find_bad_gradients(const QueuedStep& step);
  void count_step(const StepResult& result);
  static std::string blame(const StepResult& result);
  void end_if_hopeless(const StepResult& result);
  void log_step(const StepResult& result);
  void evaluate(MetricsLine& line);
  void begin_save();
  void finish_save();
  static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }
  bool due(int64_t every) const { return due(every, state_.step); }
  std::string progress_text(const StepResult& result) const;

  RunConfig config_;
  Communicator& world_;
  FlightRecorder& recorder_;
  const StopSignal& stop_;
  Console& console_;
  RunDirectory directory_;
  Mesh mesh_;
  int threads_ = 1;
  RankDevice device_;
  DeviceMeter meter_;
  RankGroups groups_;
  std::unique_ptr<CorpusStream> train_stream_, validation_stream_;
  std::unique_ptr<TrainingProgram> training_;
  std::shared_ptr<void> moved_by_nccl_;  ///< the program's memory, let go of before it
  std::unique_ptr<DataFeed> feed_;
  std::unique_ptr<RunLog> log_;
  BackgroundSave save_;
  NoiseScale noise_scale_;
  std::string plan_digest_;  ///< of all stages
  TrainingState state_;      ///< as the steps leave it whose results are known
  size_t steps_ahead_ = 0;
  std::deque<QueuedStep> queued_;
  std::deque<Taken> early_;  ///< outcomes of the first of them that are known already
  Clock::time_point last_outcome_{};
  Phase phase_ = Phase::start;
  bool stops_ = false;         ///< some rank was asked to stop
  double product_rate_ = 0.0;  ///< FLOP/s of this rank's processors
  double step_flops_ = 0.0,
         step_flops_done_ = 0.0;  ///< of a rank on average and step: the model's, and with recomputation
  double mean_seconds_ = 0.0;     ///< of recent steps, for the ETA
  double last_validation_ = 0.0;
  int64_t blank_ = 0;   ///< tokens that this rank has read blank since the last checkpoint
  bool saved_ = false;  ///< the state as it stands is on disk, or on its way there
};

}  // namespace capstan
