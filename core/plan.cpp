#include "core/plan.h"

#include <chrono>

#include "core/error.h"
#include "core/hash.h"
#include "core/passes/fuse.h"

namespace capstan {
namespace {

BindContext context_of(const Tape& tape, const Node& node, const Device& device, Reduction reduction) {
  const bool beside = node.lane && device.lane != nullptr;
  BindContext context{*device.backend,
                      tape.mesh,
                      beside ? device.lane_communicators : device.communicators,
                      device.channels,
                      reduction,
                      {},
                      {},
                      {},
                      {},
                      {},
                      {}};
  const auto fill = [&](const std::vector<TensorId>& ids, std::vector<TensorSpec>& specs, std::vector<Shape>& locals,
                        std::vector<bool>& has) {
    for (const TensorId id : ids) {
      specs.push_back(id == kNoTensor ? TensorSpec{} : tape.at(id).spec);
      locals.push_back(id == kNoTensor ? Shape{} : local_shape(tape.at(id).spec, tape.mesh));
      has.push_back(id != kNoTensor);
    }
  };
  fill(node.inputs, context.in, context.in_local, context.has_in);
  fill(node.outputs, context.out, context.out_local, context.has_out);
  return context;
}

void bind_all(Plan& plan, const Device& device, Reduction reduction) {
  for (const Node& node : plan.tape.nodes) {
    plan.bound.push_back(node.op->bind(context_of(plan.tape, node, device, reduction)));
    plan.scratch_bytes.push_back(plan.bound.back().scratch_bytes);
  }
}

std::string digest_of_plan(const Plan& plan) {
  std::string text = plan.name + "\n" + plan.tape.to_text();
  for (const size_t offset : plan.memory.offset) text += fmt::format("{},", offset);
  for (const size_t offset : plan.memory.scratch) text += fmt::format("{},", offset);
  for (const auto& lanes : plan.overlap.releases)
    for (const int lane : lanes) text += fmt::format("{};", lane);
  return digest_of(text);
}

template <typename Pass>
void timed(Plan& plan, const char* name, Pass&& pass) {
  const auto start = std::chrono::steady_clock::now();
  pass();
  plan.passes.push_back({name, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
}

std::vector<TensorSpec> local_specs(const Tape& tape, const std::vector<TensorId>& ids) {
  std::vector<TensorSpec> specs;
  for (const TensorId id : ids) {
    TensorSpec spec = id == kNoTensor ? TensorSpec{{0}, DType::u8} : tape.at(id).spec;
    spec.shape = local_shape(spec, tape.mesh);
    specs.push_back(spec);
  }
  return specs;
}

}  // namespace

Cost Plan::cost(size_t index) const {
  const Node& node = tape.nodes[index];
  return node.op->cost(local_specs(tape, node.inputs), local_specs(tape, node.outputs));
}

Wire Plan::wire(size_t index) const {
  const Node& node = tape.nodes[index];
  return node.op->wire(local_specs(tape, node.inputs), local_specs(tape, node.outputs), tape.mesh);
}

double Plan::flops(Part part, bool recomputed) const {
  double sum = 0.0;
  for (size_t i = 0; i < tape.nodes.size(); ++i)
    if (tape.nodes[i].part == part && (recomputed || !tape.nodes[i].recomputed)) sum += cost(i).flops;
  return sum;
}

Plan make_plan(const std::string& name, Tape tape, const PersistentSpace& space, const Device& device,
               const PlanOptions& options) {
  Plan plan{name, std::move(tape)};
  timed(plan, "record", [&] { verify(plan.tape, "record"); });
  timed(plan, "recompute", [&] {
    recompute(plan.tape, options.recompute);
    verify(plan.tape, "recompute");
  });
  timed(plan, "fuse", [&] {
    fuse(plan.tape, *device.backend);
    verify(plan.tape, "fuse");
  });
  if (options.windows)
    timed(plan, "windows", [&] {
      open_windows(plan.tape, *options.windows);
      verify(plan.tape, "windows");
    });
  timed(plan, "bind", [&] { bind_all(plan, device, options.reduction); });
  timed(plan, "overlap", [&] { plan.overlap = find_overlap(plan.tape, space); });
  timed(plan, "memory", [&] {
    plan.memory = plan_memory(plan.tape, plan.scratch_bytes, options.memory, plan.overlap.done);
    if (options.memory.reuse) verify(plan.memory);
  });
  plan.digest = digest_of_plan(plan);
  return plan;
}

}  // namespace capstan
