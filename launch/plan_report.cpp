#include "launch/plan_report.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/schedule_check.h"
#include "launch/console.h"

namespace capstan {
namespace {

std::string row(const char* name, size_t bytes) {
  return bytes == 0 ? "" : fmt::format("    {:<22} {:>14}\n", name, bytes_text(static_cast<double>(bytes)));
}

}  // namespace

std::string memory_table(const Program& program) {
  std::array<size_t, kPurposeCount> persistent{};
  for (const PersistentTensor& tensor : program.persistent().all())
    if (tensor.parent < 0)
      persistent[static_cast<size_t>(tensor.purpose)] += aligned(tensor.bytes) * static_cast<size_t>(tensor.copies);
  std::string text = "  persistent\n";
  for (int p = 0; p < kPurposeCount; ++p)
    text += row(name_of(static_cast<Purpose>(p)), persistent[static_cast<size_t>(p)]);
  for (const auto& [name, plan] : program.plans()) {
    text += fmt::format("  transient, plan {} at its fullest (all its tensors: {})\n", name,
                        bytes_text(static_cast<double>(plan.memory.sum_of_tensors)));
    for (int p = 0; p < kPurposeCount; ++p)
      text += row(name_of(static_cast<Purpose>(p)), plan.memory.at_peak[static_cast<size_t>(p)]);
    text += row("arena of this plan", plan.memory.bytes);
  }
  text += fmt::format("  arena: {} persistent + {} transient = {}\n",
                      bytes_text(static_cast<double>(program.persistent_bytes())),
                      bytes_text(static_cast<double>(program.transient_bytes())),
                      bytes_text(static_cast<double>(program.persistent_bytes() + program.transient_bytes())));
  return text;
}

std::string op_table(const Plan& plan) {
  struct Sum {
    int count = 0;
    double flops = 0.0, bytes = 0.0;
  };
  std::map<std::pair<int, std::string>, Sum> sums;
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    Sum& sum = sums[{static_cast<int>(node.part), std::string(node.op->name()) + (node.recomputed ? " (again)" : "")}];
    const Cost cost = plan.cost(i);
    ++sum.count, sum.flops += cost.flops, sum.bytes += cost.bytes;
  }
  std::string text = fmt::format("  {:<9} {:<36} {:>6} {:>12} {:>14}\n", "part", "op", "count", "GFLOP", "moved");
  for (const auto& [key, sum] : sums)
    text += fmt::format("  {:<9} {:<36} {:>6} {:>12.3f} {:>14}\n", name_of(static_cast<Part>(key.first)), key.second,
                        sum.count, sum.flops * 1e-9, bytes_text(sum.bytes));
  return text;
}

std::string op_list(const Plan& plan) { return plan.tape.to_text(); }

namespace {

bool waits_for(const Plan& plan, size_t node, size_t lane) {
  const std::vector<int>& waits = plan.overlap.waits[node];
  return !plan.tape.nodes[node].lane && std::binary_search(waits.begin(), waits.end(), static_cast<int>(lane));
}

/// Whether anything is computed in this node's part from `begin` on before something waits for `lane`; `met` says
/// whether something did.
bool computes(const Plan& plan, size_t lane, Part part, int chunk, size_t begin, bool& met) {
  bool any = false;
  for (size_t i = begin; i < plan.tape.nodes.size() && !met; ++i) {
    const Node& node = plan.tape.nodes[i];
    if (node.part != part || node.chunk != chunk) continue;
    met = waits_for(plan, i, lane);
    any = any || (!met && !node.lane && plan.cost(i).flops > 0);
  }
  return any;
}

/// Whether computation goes on between the posting of a node of the lane and the first that waits for it.
bool overlapped(const Plan& plan, size_t lane) {
  const Node& node = plan.tape.nodes[lane];
  bool met = false;
  if (!node.lane) return false;
  if (plan.overlap.early(lane)) {
    for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
      const std::vector<int>& releases = plan.overlap.releases[i];
      const Node& at = plan.tape.nodes[i];
      if (std::binary_search(releases.begin(), releases.end(), static_cast<int>(lane)))
        if (computes(plan, lane, at.part, at.chunk, i + 1, met)) return true;
    }
    return false;
  }
  if (computes(plan, lane, node.part, node.chunk, lane + 1, met)) return true;
  return !met && node.part == Part::update && computes(plan, lane, Part::forward, node.chunk, 0, met);  // the next step
}

}  // namespace

std::string collective_table(const Plan& plan, int64_t microbatches) {
  struct Sum {
    int64_t count = 0;
    double bytes = 0.0, beside = 0.0;
  };
  std::map<std::tuple<int, std::string, std::string>, Sum> sums;  // by part, op, attributes
  std::map<Axis, Sum> step;
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    if (!node.op->is_collective()) continue;
    const Wire wire = plan.wire(i);
    const bool replayed = node.part == Part::forward || node.part == Part::backward || node.part == Part::weights;
    const int64_t times = replayed ? microbatches : 1;
    Sum& sum = sums[{static_cast<int>(node.part), std::string(node.op->name()), node.op->attributes()}];
    ++sum.count, sum.bytes += wire.bytes;
    const double bytes = wire.bytes * static_cast<double>(times);
    step[wire.axis].count += times, step[wire.axis].bytes += bytes;
    if (overlapped(plan, i)) step[wire.axis].beside += bytes;
  }
  if (sums.empty()) return "  none: every axis has one rank\n";
  std::string text = fmt::format("  {:<9} {:<15} {:<28} {:>6} {:>14}\n", "part", "op", "axis", "count", "sent");
  for (const auto& [key, sum] : sums)
    text += fmt::format("  {:<9} {:<15} {:<28} {:>6} {:>14}\n", name_of(static_cast<Part>(std::get<0>(key))),
                        std::get<1>(key), std::get<2>(key), sum.count, bytes_text(sum.bytes));
  for (const auto& [axis, sum] : step)
    text += fmt::format("  a step, over {}: {} calls, {} sent by this rank: {} beside computation, {} exposed\n",
                        name_of(axis), sum.count, bytes_text(sum.bytes), bytes_text(sum.beside),
                        bytes_text(sum.bytes - sum.beside));
  return text + "  exposed: a rank waits for the call before it goes on (layout.overlap)\n";
}

std::string stage_table(const TrainingProgram& training, const std::vector<size_t>& bytes) {
  const Schedule& schedule = training.schedule();
  const std::vector<int>& chunk_of = training.chunk_of_layers();
  std::string text;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    std::string layers;
    for (int chunk = stage; chunk < schedule.chunks; chunk += schedule.stages) {
      const auto first = std::find(chunk_of.begin(), chunk_of.end(), chunk) - chunk_of.begin();
      const auto count = std::count(chunk_of.begin(), chunk_of.end(), chunk);
      layers += fmt::format("{}{}-{}", layers.empty() ? "" : ", ", first, first + count - 1);
    }
    text += fmt::format("  stage {:<3} layers {:<24} up to {:>3} microbatches under way{}{}\n", stage, layers,
                        under_way(schedule, stage, Action::Kind::forward, Action::Kind::backward),
                        bytes.empty() ? ""
                                      : fmt::format(", arena {:>12}",
                                                    bytes_text(static_cast<double>(bytes[static_cast<size_t>(stage)]))),
                        stage == 0                     ? "  + embedding"
                        : stage + 1 == schedule.stages ? "  + head"
                                                       : "");
  }
  const Makespan unit = play(schedule, {1.0, schedule.splits_weights ? 1.0 : 2.0, 1.0});
  return text +
         fmt::format("  idle {:.1f}% of a step, where every forward takes as long and a backward twice as long\n",
                     100.0 * unit.bubble() / unit.seconds);
}

std::string pass_table(const Plan& plan) {
  std::string text;
  for (const PassTime& pass : plan.passes) text += fmt::format("  {:<12} {:>8.2f} ms\n", pass.name, pass.seconds * 1e3);
  return text;
}

}  // namespace capstan
