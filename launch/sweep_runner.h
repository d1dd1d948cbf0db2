#pragma once
// SweepRunner: turns a plan into runs. It starts child processes as places become free, watches them, records what
// ends, tries again what failed, steps over what fails again, and plans anew when a wave is through. All it knows is in
// the sweep's directory, so a sweep that was killed goes on where it stood: runs that are recorded are not repeated,
// runs that have a checkpoint go on from it.

#include <chrono>
#include <filesystem>
#include <map>
#include <set>

#include "cluster/lab/record_store.h"
#include "cluster/lab/sweep_plan.h"
#include "io/file_system.h"
#include "launch/child_process.h"
#include "launch/console.h"
#include "launch/sweep_forecast.h"
#include "parallel/stop_signal.h"

namespace capstan {

/// What a runner may do to the sweep's directory: a look (--dry-run) changes nothing of a sweep that is there.
enum class SweepAccess { look, change };

/// The lock of a sweep's directory, for one sweep at a time; invalid where another process holds it. Take it once.
FileDescriptor lock_sweep(const std::filesystem::path& folder);
/// The error of who needs it and does not get it.
[[noreturn]] void refuse_locked_sweep(const std::filesystem::path& folder);

class SweepRunner {
 public:
  SweepRunner(const SweepSpec& spec, SweepAccess access, int64_t vocabulary, const StopSignal& stop, Console& console);

  const SweepPlan& plan() const { return plan_; }
  const std::vector<RunRecord>& records() const { return records_; }
  RecordStore& store() { return store_; }
  std::filesystem::path folder() const { return spec_.dir; }

  /// Forgets which runs failed: they are tried again.
  void forget_failures();
  /// Memory, calibration and the forecast (an earlier calibration's where `measure` is false); what there is to know is
  /// in notes().
  void forecast(bool measure);
  const std::vector<std::string>& notes() const { return notes_; }
  int places() const { return places_; }
  /// Of what is not recorded yet; 0: not calibrated.
  double seconds_left() const;
  std::vector<double> run_seconds() const { return forecast_.all(plan_); }

  /// Everything that is left, by who holds the directory's lock. False when it was stopped on request.
  bool run();
  /// One run of the plan, as a job of its own; after the last trial of a search, those beyond its edge too. Error
  /// missing_input when what it needs is not recorded.
  bool run_one(const std::string& id);

 private:
  struct Job {
    PlannedRun run;
    ChildProcess process;
    std::chrono::steady_clock::time_point start;
    int attempt = 1;
  };

  void replan();
  void plan_all();
  std::set<std::string> settled() const;
  std::filesystem::path directory_of(const PlannedRun& run) const;
  ChildProcess start(const PlannedRun& run);
  void launch(const PlannedRun& run);
  void launch_what_may();
  /// True when the job is over, for good or for bad.
  bool look_at(Job& job);
  bool try_again(Job& job, int code);
  void finish(const Job& job, int code);
  void fail_children_of_failed();
  void record_failure(const PlannedRun& run, int code, int attempts, const std::string& reason);
  void add_record(const RunRecord& record);
  void branch(const PlannedRun& trunk);
  void fill_known(RunRecord& record, const PlannedRun& run) const;
  bool see_through(const PlannedRun& run);
  std::optional<PlannedRun> next_of_search(const PlannedRun& last);
  void say_new_notes();
  void stop_all();
  void show_progress();
  double done_share(const Job& job) const;

  const SweepSpec& spec_;
  const SweepAccess access_;
  int64_t vocabulary_;
  const StopSignal& stop_;
  Console& console_;
  RecordStore store_;
  std::vector<RunRecord> records_;
  std::optional<HeldOutPrediction> prediction_;
  SweepPlan plan_;
  SweepForecast forecast_;
  std::vector<std::string> notes_;
  int places_ = 1;
  size_t looked_at_ = 0;  ///< records when failed parents were last looked for
  std::vector<Job> jobs_;
  std::map<std::string, double> spent_;  ///< seconds of earlier attempts of this process, by id
  double seconds_done_ = 0, forecast_done_ = 0;
  std::string version_;
};

}  // namespace capstan
