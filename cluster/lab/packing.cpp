#include "cluster/lab/packing.h"

#include <algorithm>

namespace capstan {

bool may_start(const SweepPlan& plan, const PlannedRun& run, const std::set<std::string>& settled) {
  if (!run.parent.empty()) return settled.contains(run.parent);
  if (run.kind == "search") return true;
  return std::all_of(plan.runs.begin(), plan.runs.end(), [&](const PlannedRun& other) {
    const bool awaited = other.kind == "search" || (run.kind == "held-out" && other.kind != "held-out");
    return !awaited || settled.contains(other.id);
  });
}

int next_run(const SweepPlan& plan, const std::vector<double>& seconds, const std::set<std::string>& settled,
             const std::set<std::string>& taken) {
  int best = -1;
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    if (taken.contains(plan.runs[i].id) || !may_start(plan, plan.runs[i], settled)) continue;
    if (best < 0 || seconds[i] > seconds[static_cast<size_t>(best)]) best = static_cast<int>(i);
  }
  return best;
}

double makespan(const SweepPlan& plan, const std::vector<double>& seconds, std::set<std::string> settled, int places) {
  std::set<std::string> taken = settled;
  std::vector<std::pair<double, std::string>> running;  // end, name
  double now = 0;
  for (;;) {
    while (static_cast<int>(running.size()) < std::max(places, 1)) {
      const int next = next_run(plan, seconds, settled, taken);
      if (next < 0) break;
      const std::string& id = plan.runs[static_cast<size_t>(next)].id;
      taken.insert(id);
      running.emplace_back(now + seconds[static_cast<size_t>(next)], id);
    }
    if (running.empty()) return now;
    const auto first = std::min_element(running.begin(), running.end());
    now = first->first;
    settled.insert(first->second);
    running.erase(first);
  }
}

}  // namespace capstan
