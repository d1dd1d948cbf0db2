// Program on a device with memory of its own: how the host reaches what lies there, and graphs instead of single ops.

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/profiler_range.h"
#include "core/program.h"

namespace capstan {
namespace {

constexpr size_t kStage = size_t{32} << 20;  ///< bytes of the host's side of a large copy

}  // namespace

size_t Program::index_of(const std::string& name) const {
  const int index = persistent_.find(name);
  CAPSTAN_CHECK(index >= 0 && allocated(), "there is no persistent tensor {}", name);
  return static_cast<size_t>(index);
}

void* Program::write_bytes(const std::string& name, int64_t microbatch) {
  const int index = static_cast<int>(index_of(name));
  void* at = address(index, microbatch);
  return mirrors_ ? mirrors_->write(at, persistent_.at(index).bytes) : at;
}

const void* Program::read_bytes(const std::string& name, int64_t microbatch) const {
  const int index = static_cast<int>(index_of(name));
  void* at = address(index, microbatch);
  return mirrors_ ? mirrors_->read(at, persistent_.at(index).bytes) : at;
}

void Program::put(void* at, size_t bytes, const std::function<void(void*, size_t, size_t)>& fill) {
  if (bytes == 0) return;
  if (device_.runtime == nullptr) return fill(at, 0, bytes);
  const size_t most = std::min(bytes, kStage);
  char* stage = static_cast<char*>(mirrors_->stage(most));
  for (size_t first = 0; first < bytes; first += most) {
    const size_t count = std::min(most, bytes - first);
    fill(stage, first, count);
    device_.runtime->copy_in(static_cast<char*>(at) + first, stage, count, stream());
    device_.runtime->finish(stream());
  }
}

void Program::get(const void* at, size_t bytes, const std::function<void(const void*, size_t, size_t)>& visit) const {
  if (bytes == 0) return;
  if (device_.runtime == nullptr) return visit(at, 0, bytes);
  const size_t most = std::min(bytes, kStage);
  char* stage = static_cast<char*>(mirrors_->stage(most));
  for (size_t first = 0; first < bytes; first += most) {
    const size_t count = std::min(most, bytes - first);
    device_.runtime->copy_out(stage, static_cast<const char*>(at) + first, count, stream());
    device_.runtime->finish(stream());
    visit(stage, first, count);
  }
}

void Program::put_whole(void* at, size_t bytes, const std::function<void(void*)>& fill) {
  if (bytes == 0) return;
  if (device_.runtime == nullptr) return fill(at);
  void* stage = mirrors_->stage(bytes);
  fill(stage);
  device_.runtime->copy_in(at, stage, bytes, stream());
  device_.runtime->finish(stream());
}

void Program::fill(const std::string& name, const std::function<void(void*)>& fill) {
  const int index = static_cast<int>(index_of(name));
  put_whole(address(index), persistent_.at(index).bytes, fill);
}

void Program::finish() const {
  settle();
  if (device_.runtime != nullptr) device_.runtime->finish(stream());
}

void Program::find_segments(Sequence& sequence) {
  const Tape& tape = sequence.plan->tape;
  sequence.segments.clear();
  bool open = false;
  for (size_t i = 0; i < sequence.nodes.size(); ++i) {
    const BoundNode& node = sequence.nodes[i];
    const bool capturable = tape.nodes[node.node].op->capturable();
    const bool apart = node.lane != nullptr || !capturable;
    if (!open || apart || !node.waits.empty()) {
      Segment& segment = sequence.segments.emplace_back();
      segment.first = i, segment.capturable = !apart;
    }
    Segment& segment = sequence.segments.back();
    segment.last = i + 1;
    if (segment.first == i) segment.nodes.first = node.node;
    segment.nodes.last = node.node;
    segment.nodes.collectives += tape.nodes[node.node].op->is_collective();
    for (const auto* slots : {&node.in_slots, &node.out_slots})
      for (const Operand& operand : *slots) segment.period = std::lcm(segment.period, int64_t{operand.slots});
    open = !apart && node.releases.empty();
  }
}

/// Whoever looks at every op sees them run one by one.
bool Program::captures() const {
  return device_.runtime != nullptr && device_.capture && (observer_ == nullptr || !observer_->wants_every_op());
}

/// What the groups that captured nodes may use have counted.
std::vector<std::pair<Communicator*, CommunicationCount>> Program::counts() const {
  std::vector<std::pair<Communicator*, CommunicationCount>> counts;
  const auto add = [&](Communicator* group) {
    const auto same = [&](const auto& counted) { return counted.first == group; };
    if (group != nullptr && std::none_of(counts.begin(), counts.end(), same))
      counts.emplace_back(group, group->count());
  };
  for (Communicator* group : device_.communicators.of) add(group);
  add(device_.communicators.ends);
  return counts;
}

void Program::capture(Sequence& sequence, Segment& segment, const Replay& replay, Graph& to) {
  const auto before = counts();
  device_.runtime->begin_capture(stream());
  try {
    replay_nodes(sequence, segment, replay);
  } catch (...) {
    device_.runtime->drop_capture(stream());
    throw;
  }
  to.graph = device_.runtime->end_capture(stream());
  for (const auto& [group, count] : before) {
    const CommunicationCount after = group->count();
    if (after.calls > count.calls) to.sent.push_back({group, {after.calls - count.calls, after.bytes - count.bytes}});
  }
}

/// The first replay runs op by op, so that libraries load what they need; the second is captured.
void Program::replay_graph(Sequence& sequence, Segment& segment, const Replay& replay) {
  const auto [found, first] = segment.graphs.try_emplace({replay.accumulate, replay.microbatch % segment.period});
  if (first) return replay_nodes(sequence, segment, replay);
  Graph& graph = found->second;
  const Plan& plan = *sequence.plan;
  if (!graph.graph) {
    capture(sequence, segment, replay, graph);  // whose calls are counted, for the launch that follows
  } else {
    if (observer_ != nullptr) observer_->replaying(plan, segment.nodes);
    for (const auto& [group, count] : graph.sent) group->count_again(count);
  }
  const ProfilerRange range(device_.runtime, plan.tape.nodes[segment.nodes.first].op->name());
  graph.graph->launch(stream());
}

/// What nobody watches is not marked, nor what is finished op by op.
void Program::note_queued(const Plan& plan, const Stretch& nodes) const {
  if (progress_ && observer_ != nullptr && !observer_->wants_every_op())
    observer_->queued(plan, nodes, progress_->mark());
}

}  // namespace capstan
