#pragma once
// A sweep in words and tables, for a person at a terminal: what is planned, and what came of it.

#include <string>
#include <vector>

#include "cluster/lab/sweep_plan.h"

namespace capstan {

/// One line a run. `seconds`: of each run; 0: unknown.
std::string plan_table(const SweepPlan& plan, const std::vector<double>& seconds);
/// Which runs are not done, and why; "" when all are.
std::string failure_text(const std::vector<RunRecord>& records);
/// The law of the ladder in a few lines; where there is none, the reason.
std::string law_text(const SweepSpec& spec, const std::vector<RunRecord>& records);
/// Predicted against measured at the held-out budget; "" where there was none.
std::string held_out_text(const SweepPlan& plan, const std::vector<RunRecord>& records);
/// The keys under [sweep], one paragraph each.
std::string sweep_key_text();

}  // namespace capstan
