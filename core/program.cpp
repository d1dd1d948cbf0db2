#include "core/program.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"

namespace capstan {
namespace {
constexpr unsigned char kGuardByte = 0xA5;

/// A persistent tensor must stand on the tape as it was declared: its bytes are laid out by the declaration.
void check_declarations(const std::string& plan, const Tape& tape, const PersistentSpace& space) {
  for (size_t i = 0; i < tape.nodes.size(); ++i)
    for (const auto* list : {&tape.nodes[i].inputs, &tape.nodes[i].outputs})
      for (const TensorId id : *list) {
        if (id == kNoTensor || tape.at(id).persistent < 0) continue;
        const PersistentTensor& declared = space.at(tape.at(id).persistent);
        CAPSTAN_CHECK(tape.at(id).spec == declared.spec, "plan {}: node {} ({}) takes {} for {}, it was declared as {}",
                      plan, i, tape.nodes[i].op->name(), declared.name, to_string(tape.at(id).spec),
                      to_string(declared.spec));
      }
}
}  // namespace

Program::Program(const Mesh& mesh, const Device& device, PlanOptions options)
    : mesh_(mesh), device_(device), options_(options), persistent_(mesh) {}

const Plan& Program::add(const std::string& name, Tape tape) {
  CAPSTAN_CHECK(!plans_.contains(name) && !allocated(), "plan {} cannot be added", name);
  check_declarations(name, tape, persistent_);
  return plans_.emplace(name, make_plan(name, std::move(tape), device_, options_)).first->second;
}

const Plan& Program::plan(const std::string& name) const {
  const auto found = plans_.find(name);
  CAPSTAN_CHECK(found != plans_.end(), "there is no plan {}", name);
  return found->second;
}

size_t Program::persistent_bytes() const {
  PersistentSpace copy = persistent_;
  copy.lay_out(options_.memory.guard);
  return copy.bytes();
}

size_t Program::transient_bytes() const {
  size_t most = 0;
  for (const auto& [name, plan] : plans_) most = std::max(most, plan.memory.bytes);
  return most;
}

void Program::allocate() {
  persistent_.lay_out(options_.memory.guard);
  arena_ = Arena(std::max<size_t>(persistent_.bytes() + transient_bytes(), kAlignment));
  transient_ = arena_.data() + persistent_.bytes();
  for (const auto& [name, plan] : plans_) link(plan);
}

void* Program::address(int index) const { return arena_.data() + persistent_.offset(index); }

void* Program::address(const std::string& name) const {
  const int index = persistent_.find(name);
  CAPSTAN_CHECK(index >= 0 && allocated(), "there is no persistent tensor {}", name);
  return address(index);
}

void* Program::address(const Plan& plan, TensorId id) const {
  if (id == kNoTensor) return nullptr;
  const TapeTensor& tensor = plan.tape.at(id);
  return tensor.persistent >= 0 ? address(tensor.persistent) : transient_ + plan.memory.offset[static_cast<size_t>(id)];
}

void Program::link(const Plan& plan) {
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    BoundNode bound{i, &plan.bound[i], {}, {}, transient_ + plan.memory.scratch[i], node.accumulate};
    for (const TensorId id : node.inputs) bound.in.push_back(address(plan, id));
    for (const TensorId id : node.outputs) bound.out.push_back(address(plan, id));
    Sequence& sequence = sequences_[{plan.name, node.part, node.level}];
    sequence.plan = &plan;
    sequence.nodes.push_back(std::move(bound));
  }
}

bool Program::has(const std::string& plan, Part part, int level) const {
  return sequences_.contains({plan, part, level});
}

void Program::run(const std::string& plan, Part part, bool accumulate, int level) {
  const auto found = sequences_.find({plan, part, level});
  CAPSTAN_CHECK(found != sequences_.end(), "plan {} has no part {} {}", plan, name_of(part), level);
  for (const BoundNode& node : found->second.nodes) {
    const bool add =
        node.accumulate == Accumulate::always || (node.accumulate == Accumulate::after_first_microbatch && accumulate);
    if (__builtin_expect(observer_ != nullptr, false)) observer_->before(*found->second.plan, node.node);
    node.bound->run({node.in.data(), node.out.data(), node.scratch, add});
    if (__builtin_expect(observer_ != nullptr, false)) observer_->after(*found->second.plan, node.node);
  }
}

std::string Program::digest() const {
  std::string text = mesh_.describe();
  for (const PersistentTensor& tensor : persistent_.all())
    text += fmt::format("\n{} {} {} {}", tensor.name, to_string(tensor.spec), tensor.parent, tensor.offset_in_parent);
  for (const auto& [name, plan] : plans_) text += "\n" + name + " " + plan.digest;
  return digest_of(text);
}

void Program::each_guard(const std::string& name,
                         const std::function<bool(char*, size_t, const std::string&)>& visit) const {
  const size_t guard = options_.memory.guard;
  if (guard == 0) return;
  for (const PersistentTensor& tensor : persistent_.all())
    if (tensor.parent < 0 && !visit(arena_.data() + tensor.offset + tensor.bytes, guard, tensor.name)) return;
  for (const Buffer& buffer : plan(name).memory.buffers)
    if (!visit(transient_ + buffer.offset + buffer.bytes, guard,
               fmt::format("{}, buffer of node {}", name, buffer.first)))
      return;
}

void Program::fill_guards(const std::string& name) {
  each_guard(name, [](char* at, size_t bytes, const std::string&) {
    std::memset(at, kGuardByte, bytes);
    return true;
  });
}

std::string Program::find_broken_guard(const std::string& name) const {
  std::string broken;
  each_guard(name, [&](char* at, size_t bytes, const std::string& what) {
    for (size_t i = 0; i < bytes && broken.empty(); ++i)
      if (static_cast<unsigned char>(at[i]) != kGuardByte) broken = fmt::format("{} byte {} after its end", what, i);
    return broken.empty();
  });
  return broken;
}

}  // namespace capstan
