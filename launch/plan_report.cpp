#include "launch/plan_report.h"

#include <algorithm>
#include <map>

#include "core/error.h"
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
    if (tensor.parent < 0) persistent[static_cast<size_t>(tensor.purpose)] += aligned(tensor.bytes);
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

std::string collective_table(const Plan& plan) {
  std::string text;
  for (const Node& node : plan.tape.nodes) {
    if (!node.op->is_collective()) continue;
    const TensorSpec& spec = plan.tape.at(node.inputs[0]).spec;
    const double bytes = static_cast<double>(spec.elements() * bytes_of(spec.dtype));
    const double ranks = plan.tape.mesh.size(Axis::dp);
    text += fmt::format("  {:<9} {:<12} {:<14} {:<22} {:>12}, on the wire {:>12}\n", name_of(node.part),
                        node.op->name(), node.op->attributes(), plan.tape.at(node.inputs[0]).name, bytes_text(bytes),
                        bytes_text(2.0 * bytes * (ranks - 1.0) / ranks));
  }
  return text.empty() ? "  none: every axis has one rank\n" : text;
}

std::string pass_table(const Plan& plan) {
  std::string text;
  for (const PassTime& pass : plan.passes) text += fmt::format("  {:<12} {:>8.2f} ms\n", pass.name, pass.seconds * 1e3);
  return text;
}

}  // namespace capstan
