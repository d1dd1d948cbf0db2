#include "core/update_proof.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {
namespace {

[[noreturn]] void fault_on(size_t stage, const std::string& what) {
  throw Error::make(ExitCode::internal, "the job cannot run: stage {}: {}", stage, what);
}

bool is_conversion(const Node& node) {
  constexpr std::string_view names[] = {"all-reduce", "reduce-scatter", "all-gather", "all-to-all", "slice"};
  return node.op->is_collective() && !node.op->attributes().starts_with("pp ") &&
         std::find(std::begin(names), std::end(names), node.op->name()) != std::end(names);
}

/// "rep P->R", of a conversion between these two; empty where they do not differ on exactly one axis.
std::string conversion_between(const TensorSpec& from, const TensorSpec& to, const Mesh& mesh) {
  std::string text;
  for (const Axis axis : kAllAxes) {
    const Placement a = on(from.placements, axis), b = on(to.placements, axis);
    if (mesh.size(axis) == 1 || a == b) continue;
    if (!text.empty()) return "";
    text = fmt::format("{} {}->{}", name_of(axis), to_string(a), to_string(b));
  }
  return text;
}

void prove_update(const Tape& tape, const Node& node, size_t stage) {
  const TapeTensor& gradient = tape.at(node.inputs.at(0));
  const TapeTensor& master = tape.at(node.outputs.at(0));
  for (const Axis axis : kAllAxes) {
    if (tape.mesh.size(axis) == 1) continue;
    const Placement has = on(gradient.spec.placements, axis), wanted = on(master.spec.placements, axis);
    if (has != wanted)
      fault_on(stage, fmt::format("{} is updated by a gradient that is {} on {}, wanted {}", master.name,
                                  to_string(has), name_of(axis), to_string(wanted)));
    if (axis == Axis::rep && !wanted.is_replicate())
      fault_on(stage, fmt::format("{} is not the same on all replicas", master.name));
  }
}

}  // namespace

void prove_conversions(const Tape& tape, size_t stage) {
  for (const Node& node : tape.nodes) {
    if (!is_conversion(node)) continue;
    const TapeTensor &from = tape.at(node.inputs.at(0)), &to = tape.at(node.outputs.at(0));
    const std::string wanted = conversion_between(from.spec, to.spec, tape.mesh);
    if (wanted != node.op->attributes())
      fault_on(stage, fmt::format("{}: {} ({}) makes {}, {}, of {}, {}", name_of(node.part), node.op->name(),
                                  node.op->attributes(), to.name, to_string(to.spec), from.name, to_string(from.spec)));
  }
}

Ownership prove_updates(const Tape& tape, const FlatLayout& layout, size_t stage) {
  const Mesh& mesh = tape.mesh;
  std::vector<int> updates(layout.runs.size());
  Ownership ownership{1, mesh.data_ranks()};
  for (const Node& node : tape.nodes) {
    if (node.op->name() != "adamw") continue;
    prove_update(tape, node, stage);
    const TapeTensor& master = tape.at(node.outputs.at(0));
    size_t run = 0;
    while (run < layout.runs.size() && master.name != fmt::format("parameters.run{}", run)) ++run;
    if (run == layout.runs.size() || !layout.runs[run].held) fault_on(stage, master.name + " is updated but not held");
    const bool divided = mesh.size(Axis::dp) > 1 && on(master.spec.placements, Axis::dp).is_shard();
    const int64_t shards = divided ? mesh.size(Axis::dp) : 1;
    if (element_count(local_shape(master.spec, mesh)) * shards != layout.runs[run].count)
      fault_on(stage, fmt::format("the pieces of {} on {} ranks of dp are not its {} elements", master.name, shards,
                                  layout.runs[run].count));
    ownership = {static_cast<int>(shards), mesh.data_ranks() / static_cast<int>(shards)};
    ++updates[run];
  }
  for (size_t run = 0; run < updates.size(); ++run)
    if (updates[run] != (layout.runs[run].held ? 1 : 0))
      fault_on(stage, fmt::format("parameters.run{} (unit {}) is updated {} times a step, wanted {}", run,
                                  layout.runs[run].unit, updates[run], layout.runs[run].held ? 1 : 0));
  return ownership;
}

}  // namespace capstan
