#pragma once
// SweepPlan: all runs of a sweep as a pure function of its file and of the records so far, so that a restart, or a job
// of a Slurm array on another machine, comes to the same list. What an earlier wave must find out first (the best
// learning rate; where the optimum lies) is filled in provisionally, for the forecast, until its records are there.

#include <optional>

#include "cluster/lab/prediction.h"
#include "cluster/lab/record.h"
#include "cluster/lab/shapes.h"

namespace capstan {

struct PlannedRun {
  std::string id;         ///< key of its record
  std::string directory;  ///< name below DIR/runs; segments of one long run share it
  std::string kind;       ///< as RunRecord::kind
  std::string parent;     ///< id of the run that must be done first; empty: none
  size_t size = 0;        ///< index into SweepPlan::sizes
  double tokens = 0, flops = 0;
  int64_t steps = 0, first_step = 0;  ///< first_step: where its parent's checkpoint stands
  int64_t batch = 0, seed = 0, warmup = 0, threads = 1;
  double learning_rate = 0;
  bool provisional = false;           ///< depends on runs that are not recorded yet
  int wave = 0;                       ///< runs of a wave need only earlier waves
  std::vector<std::string> settings;  ///< key=value, on top of the sweep file's
};

struct SweepPlan {
  std::vector<SweepSize> sizes;
  std::vector<PlannedRun> runs;
  std::vector<std::string> notes;  ///< what a person should know
  std::optional<HeldOutPrediction> prediction;
  const PlannedRun* find(const std::string& id) const;
};

/// `prediction`: one that was written down before the held-out run was started; it is kept then.
SweepPlan plan_sweep(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records,
                     const std::optional<HeldOutPrediction>& prediction = {});

/// The whole configuration of one run. Error config.
RunConfig config_of(const SweepSpec& spec, const PlannedRun& run);

/// "3e11", "1.5e7", "20"
std::string short_number(double x);

}  // namespace capstan
