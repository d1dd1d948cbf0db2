#pragma once
// A sweep as Slurm job arrays: one array for each wave of runs that need only earlier waves, chained by dependencies. A
// task of an array runs `capstan sweep FILE --run ID`, which records it in the same table as everybody else's.

#include "cluster/lab/sweep_plan.h"

namespace capstan {

struct SlurmFiles {
  std::string submit;              ///< text of the script that a person starts
  std::vector<std::string> waves;  ///< ids, one a line
};

/// `binary`, `sweep`, `folder` (where the files will lie), `work`: absolute paths. `seconds`: of each run; 0: unknown.
SlurmFiles slurm_files(const SweepSpec& spec, const SweepPlan& plan, const std::vector<double>& seconds,
                       const std::string& binary, const std::string& sweep, const std::string& folder,
                       const std::string& work);

/// Between single quotes for a shell.
std::string shell_quoted(const std::string& text);

}  // namespace capstan
