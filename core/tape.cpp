#include "core/tape.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {

const char* name_of(Purpose purpose) {
  constexpr const char* names[] = {"parameter", "working copy", "gradient",  "moment",
                                   "input",     "scalar",       "cache",     "window of a unit",
                                   "reduction", "activation",   "statistic", "activation gradient",
                                   "scratch"};
  static_assert(std::size(names) == kPurposeCount);
  return names[static_cast<int>(purpose)];
}

const char* name_of(Part part) {
  constexpr const char* names[] = {"begin", "forward", "backward", "weights", "carry", "store", "update"};
  return names[static_cast<int>(part)];
}

void Op::adjoint(Adjoint&) const {
  throw Error::make(ExitCode::internal, "op {} has no adjoint but a gradient reached it", name());
}

Wire Op::wire(std::span<const TensorSpec>, std::span<const TensorSpec>, const Mesh&) const {
  throw Error::make(ExitCode::internal, "op {} communicates and does not say what it sends", name());
}

Cost Op::cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const {
  Cost cost;
  for (const TensorSpec& spec : in) cost.bytes += static_cast<double>(spec.elements() * bytes_of(spec.dtype));
  for (const TensorSpec& spec : out) cost.bytes += static_cast<double>(spec.elements() * bytes_of(spec.dtype));
  return cost;
}

std::string Tape::to_text() const {
  std::string text;
  const auto operand = [&](TensorId id) {
    return id == kNoTensor ? std::string("-") : fmt::format("%{}:{}", id, to_string(at(id).spec));
  };
  for (const Node& node : nodes) {
    text += fmt::format("{}{} r{} c{} {}{}({})", name_of(node.part), node.level, node.region, node.chunk,
                        node.recomputed ? "again " : "", node.op->name(), node.op->attributes());
    for (const TensorId id : node.inputs) text += " " + operand(id);
    text += " ->";
    for (const TensorId id : node.outputs) text += " " + operand(id);
    text += fmt::format(" +{}\n", static_cast<int>(node.accumulate));
  }
  return text;
}

namespace {

std::vector<InputSpec> input_specs(const Tape& tape, const Node& node) {
  std::vector<InputSpec> specs;
  for (const TensorId id : node.inputs)
    specs.push_back(id == kNoTensor ? InputSpec{} : InputSpec{true, tape.at(id).spec});
  return specs;
}

/// The node that a check is at, told only when it fails: "after cut: node 7 (add) of x, y to z".
struct Where {
  const Tape& tape;
  size_t node;
  const std::string& pass;

  std::string operator()() const {
    const Node& at = tape.nodes[node];
    return fmt::format("after {}: node {} ({}) of {} to {}", pass, node, at.op->name(), names(at.inputs),
                       names(at.outputs));
  }
  std::string names(const std::vector<TensorId>& ids) const {
    std::string text;
    for (const TensorId id : ids)
      if (id != kNoTensor) text += (text.empty() ? "" : ", ") + tape.at(id).name;
    return text;
  }
};

void verify_shapes(const Tape& tape, const Node& node, const Where& where) {
  if (node.op->shapes_follow_output()) return;
  const std::vector<InputSpec> inputs = input_specs(tape, node);
  std::vector<TensorSpec> inferred;
  try {
    inferred = node.op->infer(inputs);
  } catch (const Error& error) {
    throw Error::make(ExitCode::internal, "{}: {}", where(), error.what());
  }
  CAPSTAN_CHECK(inferred.size() == node.outputs.size(), "{}: {} outputs recorded, {} inferred", where(),
                node.outputs.size(), inferred.size());
  for (size_t i = 0; i < inferred.size(); ++i) {
    if (node.outputs[i] == kNoTensor) continue;
    const TensorSpec& recorded = tape.at(node.outputs[i]).spec;
    CAPSTAN_CHECK(recorded.dtype == inferred[i].dtype && recorded.shape == inferred[i].shape,
                  "{}: output {} is {}, its rule says {}", where(), i, to_string(recorded), to_string(inferred[i]));
  }
}

bool matches(const Tape& tape, const Node& node, const Signature& signature, Axis axis) {
  const auto fits = [&](TensorId id, const Placement& wanted) {
    return id == kNoTensor || on(tape.at(id).spec.placements, axis) == wanted;
  };
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (!fits(node.inputs[i], signature.inputs[i])) return false;
  for (size_t i = 0; i < node.outputs.size(); ++i)
    if (!fits(node.outputs[i], signature.outputs[i])) return false;
  return true;
}

bool fits(const Tape& tape, const Node& node, Axis axis) {
  for (const Signature& signature : node.op->signatures(input_specs(tape, node)))
    if (matches(tape, node, signature, axis)) return true;
  return false;
}

void verify_placements(const Tape& tape, const Node& node, const Where& where) {
  if (node.op->shapes_follow_output()) return;
  if (node.op->is_collective()) return;  // a conversion changes placements: its own rule checks both ends
  for (const Axis axis : kAllAxes)
    CAPSTAN_CHECK(axis == Axis::pp || tape.mesh.size(axis) == 1 || fits(tape, node, axis),
                  "{}: operands match no placement signature on axis {}", where(), name_of(axis));
}

void verify_in_place(const Node& node, const Where& where) {
  for (const InPlace& pair : node.op->in_place())
    CAPSTAN_CHECK(
        pair.output < static_cast<int>(node.outputs.size()) && pair.input < static_cast<int>(node.inputs.size()),
        "{}: in-place pair ({}, {}) names no operand", where(), pair.output, pair.input);
}

void verify_gradients(const Tape& tape, const std::string& after_pass) {
  std::vector<int> found(tape.tensors.size());
  for (size_t i = 0; i < tape.nodes.size(); ++i)
    for (const TensorId id : tape.nodes[i].outputs) {
      const Part part = tape.nodes[i].part;
      if (id == kNoTensor || tape.at(id).contributions == 0 || (part != Part::backward && part != Part::weights))
        continue;
      const bool first = found[static_cast<size_t>(id)]++ == 0;
      const Accumulate wanted = first ? Accumulate::after_first_microbatch : Accumulate::always;
      CAPSTAN_CHECK(tape.nodes[i].accumulate == (tape.at(id).windowed ? Accumulate::always : wanted),
                    "after {}: node {} ({}) is contribution {} to {} and accumulates wrongly", after_pass, i,
                    tape.nodes[i].op->name(), found[static_cast<size_t>(id)], tape.at(id).name);
    }
  for (size_t id = 0; id < found.size(); ++id)
    CAPSTAN_CHECK(found[id] == tape.tensors[id].contributions, "after {}: {} nodes contribute to {}, wanted {}",
                  after_pass, found[id], tape.tensors[id].name, tape.tensors[id].contributions);
}

}  // namespace

bool placements_fit(const Tape& tape, const Node& node) {
  return std::all_of(kAllAxes.begin(), kAllAxes.end(), [&](Axis axis) {
    return axis == Axis::pp || tape.mesh.size(axis) == 1 || fits(tape, node, axis);
  });
}

void verify(const Tape& tape, const std::string& after_pass) {
  std::vector<bool> written(tape.tensors.size());
  for (size_t i = 0; i < tape.tensors.size(); ++i) written[i] = tape.tensors[i].persistent >= 0;
  for (size_t i = 0; i < tape.nodes.size(); ++i) {
    const Node& node = tape.nodes[i];
    const Where where{tape, i, after_pass};
    for (const TensorId id : node.inputs)
      CAPSTAN_CHECK(id == kNoTensor || written[static_cast<size_t>(id)], "{} reads {} before it is written", where(),
                    tape.at(id).name);
    for (const TensorId id : node.outputs) {
      if (id == kNoTensor) continue;
      CAPSTAN_CHECK(tape.at(id).persistent >= 0 || !written[static_cast<size_t>(id)], "{} writes {} twice", where(),
                    tape.at(id).name);
      written[static_cast<size_t>(id)] = true;
    }
    verify_shapes(tape, node, where);
    verify_placements(tape, node, where);
    verify_in_place(node, where);
  }
  verify_gradients(tape, after_pass);
}

}  // namespace capstan
