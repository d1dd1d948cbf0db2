#pragma once
// What a sweep will take, before it starts: the memory of each size from its plan, and the time from a short measured
// calibration: each size trains a few steps as a process of its own, as many at once as the sweep will run, so that
// start-up, evaluation and what neighbours take from the memory's bandwidth are in the figures. Calibrations are kept
// beside the sweep and used again as long as nothing they depend on has changed.

#include <filesystem>
#include <map>

#include "cluster/lab/sweep_plan.h"
#include "launch/console.h"
#include "parallel/stop_signal.h"

namespace capstan {

struct SizeSpeed {
  double flops_second = 0;   ///< of one run, while steps are made
  double fixed_seconds = 0;  ///< start, one evaluation, checkpoint, end
};

class SweepForecast {
 public:
  /// Bytes that one rank of a run needs: plan, samples, corpus, the program itself.
  static double run_bytes(const SweepSpec& spec, const PlannedRun& run);
  /// How many runs at once: what the cores have room for, less where memory has not. Error config where not even one
  /// fits.
  static int places(const SweepSpec& spec, const SweepPlan& plan, std::vector<std::string>& notes);

  /// Measures the sizes that `folder`/calibration.json does not know. Nothing is measured when `measure` is false; only
  /// who holds the sweep's lock may measure. A calibration of another machine or other settings that lies there makes
  /// way only when `replace` is true.
  void calibrate(const SweepSpec& spec, const SweepPlan& plan, const std::filesystem::path& folder, int places,
                 bool measure, bool replace, const StopSignal& stop, Console& console);
  bool known() const { return !speeds_.empty(); }
  /// 0 without a calibration.
  double seconds(const SweepPlan& plan, const PlannedRun& run) const;
  std::vector<double> all(const SweepPlan& plan) const;
  const SizeSpeed* speed(const std::string& label) const;

 private:
  std::map<std::string, SizeSpeed> speeds_;
  std::map<std::string, double> token_flops_;  ///< by label, to find the nearest size
};

/// The command that runs `config_file`: capstan train itself, or through mpirun.
std::vector<std::string> train_command(const SweepSpec& spec, const std::filesystem::path& config_file);
/// This very program, also when its file was replaced by a newer build since it started.
std::string own_program();

}  // namespace capstan
