#pragma once
// Which run starts next, and how long a list of runs takes on so many places: the sweep and its forecast ask the same
// rule. A run may start when its parent is settled, a run of the ladder when all searches are, the held-out one when
// all others are; of those that may, the longest goes first.

#include <functional>
#include <set>

#include "cluster/lab/sweep_plan.h"

namespace capstan {

/// Whether everything that `run` waits for is settled (recorded, whatever the outcome).
bool may_start(const SweepPlan& plan, const PlannedRun& run, const std::set<std::string>& settled);

/// Index of the run to start next, or -1. `taken`: settled or running.
int next_run(const SweepPlan& plan, const std::vector<double>& seconds, const std::set<std::string>& settled,
             const std::set<std::string>& taken);

/// Seconds until all runs that are not settled are, on `places`.
double makespan(const SweepPlan& plan, const std::vector<double>& seconds, std::set<std::string> settled, int places);

}  // namespace capstan
