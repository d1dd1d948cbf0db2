#include "launch/step_timer.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace capstan {

void StepTimer::before(const Plan&, size_t) { start_ = std::chrono::steady_clock::now(); }

void StepTimer::after(const Plan& plan, size_t node) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  Sum& sum = sums_[{plan.tape.nodes[node].part, std::string(plan.tape.nodes[node].op->name())}];
  const Cost cost = plan.cost(node);
  ++sum.count;
  sum.seconds += seconds, sum.flops += cost.flops, sum.bytes += cost.bytes;
}

void StepTimer::waited(const Plan& plan, size_t node) {
  const Node& at = plan.tape.nodes[node];
  Sum& sum = sums_[{at.part, "(waits for) " + std::string(at.op->name())}];
  ++sum.count;
  sum.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

std::string StepTimer::table(int steps) const {
  std::vector<std::pair<std::pair<Part, std::string>, Sum>> rows(sums_.begin(), sums_.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0.0;
  for (const auto& entry : rows) total += entry.second.seconds;
  std::string text = fmt::format("  {:<9} {:<28} {:>6} {:>7} {:>10} {:>10} {:>8}\n", "part", "op", "calls", "share",
                                 "ms/step", "GFLOP/s", "GB/s");
  for (const auto& [key, sum] : rows)
    text += fmt::format("  {:<9} {:<28} {:>6} {:>6.1f}% {:>10.3f} {:>10.1f} {:>8.1f}\n", name_of(key.first), key.second,
                        sum.count / steps, 100.0 * sum.seconds / total, 1e3 * sum.seconds / steps,
                        sum.flops / sum.seconds * 1e-9, sum.bytes / sum.seconds * 1e-9);
  return text;
}

}  // namespace capstan
