#include "core/program.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/profiler_range.h"

namespace capstan {
namespace {
constexpr unsigned char kGuardByte = 0xA5;

bool adds(Accumulate accumulate, const Replay& replay) {
  return accumulate == Accumulate::always || (accumulate == Accumulate::after_first_microbatch && replay.accumulate);
}

Stretch stretch_of(const Plan& plan, size_t node) { return {node, node, plan.tape.nodes[node].op->is_collective()}; }

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
    : mesh_(mesh), device_(device), options_(options), persistent_(mesh), exceptions_(std::uncaught_exceptions()) {
  if (device_.runtime != nullptr) progress_ = std::make_shared<DeviceProgress>(*device_.runtime);
}

/// Nothing may touch memory that is given back.
Program::~Program() {
  if (device_.runtime != nullptr && arena_.bytes() > 0) {
    try {
      device_.runtime->finish(stream());
    } catch (const std::exception&) {  // the device is lost; what it still held is too
    }
  }
  if (progress_) progress_->close();  // a watcher may keep it for longer than there is a device
  if (device_.lane == nullptr || lane_posted_ == lane_done_) return;
  if (std::uncaught_exceptions() == exceptions_) {
    try {
      settle();
      return;
    } catch (const std::exception&) {  // a peer is lost, which this rank did not ask about in time
    }
  }
  // A captured call of NCCL keeps its communicator from ending for as long as its graph lives.
  for (auto& [key, sequence] : sequences_)
    for (Segment& segment : sequence.segments) segment.graphs.clear();
  struct Remains {
    std::map<std::string, Plan> plans;
    std::map<SequenceKey, Sequence> sequences;
    Arena arena;
  };
  device_.lane->abandon(
      std::make_shared<Remains>(Remains{std::move(plans_), std::move(sequences_), std::move(arena_)}));
}

const Plan& Program::add(const std::string& name, Tape tape, const std::vector<ChannelSpec>& paths,
                         const ReplayOrder& order) {
  CAPSTAN_CHECK(!plans_.contains(name) && !allocated(), "plan {} cannot be added", name);
  check_declarations(name, tape, persistent_);
  Device device = device_;
  Communicator* pipeline = device.communicators.of[static_cast<size_t>(Axis::pp)];
  if (!paths.empty() && pipeline != nullptr && pipeline->size() > 1)
    channels_.push_back(pipeline->open_channels(paths, kPathCapacity)), device.channels = channels_.back().get();
  PlanOptions options = options_;
  options.memory.order = order;
  return plans_.emplace(name, make_plan(name, std::move(tape), persistent_, device, options)).first->second;
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
  arena_ = Arena(std::max<size_t>(persistent_.bytes() + transient_bytes(), kAlignment), device_.runtime);
  transient_ = arena_.data() + persistent_.bytes();
  for (const auto& [name, plan] : plans_) link(plan);
  for (auto& [key, sequence] : sequences_) find_segments(sequence);
  if (device_.runtime != nullptr) mirrors_ = std::make_unique<HostMirrors>(*device_.runtime);
}

void* Program::address(int index, int64_t microbatch) const {
  const PersistentTensor& tensor = persistent_.at(index);
  CAPSTAN_CHECK(tensor.copies > 0, "{} is not held by rank {}", tensor.name, mesh_.rank());
  if (const size_t root = static_cast<size_t>(persistent_.root(index).index); root < lane_touches_.size())
    for (const OnLane* lane : lane_touches_[root]) wait_for(*lane);
  return arena_.data() + persistent_.offset(index) + static_cast<size_t>(microbatch % tensor.copies) * tensor.stride;
}

void* Program::address(const std::string& name, int64_t microbatch) const {
  const int index = persistent_.find(name);
  CAPSTAN_CHECK(index >= 0 && allocated(), "there is no persistent tensor {}", name);
  return address(index, microbatch);
}

void* Program::address(const Plan& plan, TensorId id) const {
  if (id == kNoTensor) return nullptr;
  const TapeTensor& tensor = plan.tape.at(id);
  return tensor.persistent >= 0 ? address(tensor.persistent) : transient_ + plan.memory.offset[static_cast<size_t>(id)];
}

Program::Operand Program::operand(const Plan& plan, TensorId id) const {
  Operand operand{static_cast<char*>(address(plan, id)), 0, 1};
  if (id == kNoTensor) return operand;
  const int persistent = plan.tape.at(id).persistent, ring = plan.memory.ring_of[static_cast<size_t>(id)];
  if (persistent >= 0)
    operand.slots = persistent_.at(persistent).copies, operand.stride = persistent_.at(persistent).stride;
  else if (ring >= 0)
    operand.slots = plan.memory.rings[static_cast<size_t>(ring)].slots,
    operand.stride = plan.memory.rings[static_cast<size_t>(ring)].stride;
  return operand;
}

void Program::link(const Plan& plan) {
  std::vector<BoundNode*> nodes;
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    BoundNode bound;
    bound.node = i, bound.bound = &plan.bound[i], bound.accumulate = node.accumulate;
    bound.scratch = transient_ + plan.memory.scratch[i];
    bool moves = false;
    const auto add = [&](const std::vector<TensorId>& ids, std::vector<void*>& now, std::vector<Operand>& slots) {
      for (const TensorId id : ids) {
        slots.push_back(operand(plan, id));
        now.push_back(slots.back().first);
        moves = moves || slots.back().slots > 1;
      }
    };
    add(node.inputs, bound.in, bound.in_slots), add(node.outputs, bound.out, bound.out_slots);
    if (!moves) bound.in_slots.clear(), bound.out_slots.clear();
    Sequence& sequence = sequences_[{plan.name, node.part, node.level, node.chunk}];
    sequence.plan = &plan;
    sequence.nodes.push_back(std::move(bound));
    nodes.push_back(&sequence.nodes.back());
  }
  link_lane(plan, nodes);
}

void Program::link_lane(const Plan& plan, const std::vector<BoundNode*>& nodes) {
  const Tape& tape = plan.tape;
  lane_touches_.resize(persistent_.all().size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!tape.nodes[i].lane) continue;
    CAPSTAN_CHECK(nodes[i]->in_slots.empty(), "node {} of the lane moves from microbatch to microbatch", i);
    OnLane& lane = on_lane_.emplace_back();
    lane.node = nodes[i], lane.plan = &plan;
    lane.releases = lane.owed = plan.overlap.release_count[i];
    nodes[i]->lane = &lane;
    bool holds_arena = plan.scratch_bytes[i] > 0;
    for (const auto* list : {&tape.nodes[i].inputs, &tape.nodes[i].outputs})
      for (const TensorId id : *list) {
        const int place = id == kNoTensor ? -1 : tape.at(id).persistent;
        holds_arena = holds_arena || (id != kNoTensor && place < 0);
        if (place >= 0) lane_touches_[static_cast<size_t>(persistent_.root(place).index)].push_back(&lane);
      }
    const Node& node = tape.nodes[i];
    CAPSTAN_CHECK(!holds_arena || !plan.overlap.early(i), "node {} of the lane is posted before it has memory", i);
    if (holds_arena) sequences_[{plan.name, node.part, node.level, node.chunk}].at_end.push_back(&lane);
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (tape.nodes[i].lane) continue;
    for (const int lane : plan.overlap.waits[i]) nodes[i]->waits.push_back(nodes[static_cast<size_t>(lane)]->lane);
    for (const int lane : plan.overlap.releases[i])
      nodes[i]->releases.push_back(nodes[static_cast<size_t>(lane)]->lane);
  }
}

bool Program::has(const std::string& plan, Part part, int level, int chunk) const {
  return sequences_.contains({plan, part, level, chunk});
}

void Program::run(const std::string& name, Part part, const Replay& replay) {
  const auto found = sequences_.find({name, part, replay.level, replay.chunk});
  CAPSTAN_CHECK(found != sequences_.end(), "plan {} has no part {} (chunk {}, level {})", name, name_of(part),
                replay.chunk, replay.level);
  const Plan& plan = *found->second.plan;
  if (std::exchange(running_, &plan) != &plan) settle();  // a plan knows what of its own lane it has to wait for
  if (mirrors_) mirrors_->upload();
  for (Segment& segment : found->second.segments) this->replay(found->second, segment, replay);
  for (const OnLane* lane : found->second.at_end) wait_for(*lane);
}

/// Nothing inside a segment waits or hands over: what does stands at its ends.
void Program::replay(Sequence& sequence, Segment& segment, const Replay& replay) {
  BoundNode& first = sequence.nodes[segment.first];
  if (first.lane != nullptr) {
    if (!std::exchange(first.lane->posted, false)) post(*first.lane, adds(first.accumulate, replay));
    return;
  }
  for (const OnLane* lane : first.waits) wait_for(*lane);
  if (segment.capturable && captures())
    replay_graph(sequence, segment, replay);
  else
    replay_nodes(sequence, segment, replay);
  note_queued(*sequence.plan, segment.nodes);
  if (!replay.last) return;
  for (OnLane* lane : sequence.nodes[segment.last - 1].releases)
    if (--lane->owed == 0) post(*lane, lane->node->accumulate == Accumulate::always), lane->posted = true;
}

void Program::replay_nodes(Sequence& sequence, const Segment& segment, const Replay& replay) {
  for (size_t n = segment.first; n < segment.last; ++n) {
    BoundNode& node = sequence.nodes[n];
    for (size_t i = 0; i < node.in_slots.size(); ++i) node.in[i] = node.in_slots[i].at(replay.microbatch);
    for (size_t i = 0; i < node.out_slots.size(); ++i) node.out[i] = node.out_slots[i].at(replay.microbatch);
    execute(*sequence.plan, node, adds(node.accumulate, replay));
  }
}

void Program::execute(const Plan& plan, BoundNode& node, bool add) {
  if (__builtin_expect(observer_ != nullptr, false)) observer_->before(plan, node.node);
  {
    const ProfilerRange range(device_.runtime, plan.tape.nodes[node.node].op->name());
    node.bound->run({node.in.data(), node.out.data(), node.scratch, add, stream()});
  }
  if (__builtin_expect(observer_ != nullptr, false)) {
    if (device_.runtime != nullptr && observer_->wants_every_op()) device_.runtime->finish(stream());
    observer_->after(plan, node.node);
  }
}

void Program::post(OnLane& lane, bool add) {
  BoundNode& node = *lane.node;
  lane.owed = lane.releases;
  if (device_.lane == nullptr) {
    execute(*lane.plan, node, add);
    return note_queued(*lane.plan, stretch_of(*lane.plan, node.node));
  }
  lane.ticket = lane_posted_ =
      device_.lane->post(node.bound->run, {node.in.data(), node.out.data(), node.scratch, add, stream()});
}

void Program::wait_for(const OnLane& lane) const {
  if (lane.ticket <= lane_done_) return;
  lane_done_ = device_.lane->done();
  if (lane.ticket <= lane_done_) return;
  const OnLane& first = observer_ != nullptr ? first_collective(lane) : lane;
  if (observer_ != nullptr) observer_->waiting(*first.plan, first.node->node);
  device_.lane->wait(lane.ticket);
  lane_done_ = lane.ticket;
  note_queued(*first.plan, stretch_of(*first.plan, first.node->node));  // a device's lane: only its stream waits
  if (observer_ != nullptr) observer_->waited(*first.plan, first.node->node);
}

/// Of what the lane has before it comes to this one: where it may wait for other ranks.
const Program::OnLane& Program::first_collective(const OnLane& lane) const {
  const OnLane* first = &lane;
  for (const OnLane& other : on_lane_)
    if (other.ticket > lane_done_ && other.ticket <= first->ticket &&
        other.plan->tape.nodes[other.node->node].op->is_collective())
      first = &other;
  return *first;
}

void Program::settle() const {
  if (lane_posted_ == lane_done_) return;
  device_.lane->wait(lane_posted_);
  lane_done_ = lane_posted_;
}

std::string Program::digest() const {
  std::string text = mesh_.describe();
  for (const PersistentTensor& tensor : persistent_.all())
    text += fmt::format("\n{} {} {} {}", tensor.name, to_string(tensor.spec), tensor.parent,
                        tensor.own_piece ? 0 : tensor.offset_in_parent);
  for (const auto& [name, plan] : plans_) text += "\n" + name + " " + plan.digest;
  return digest_of(text);
}

void Program::each_guard(const std::string& name,
                         const std::function<bool(char*, size_t, const std::string&)>& visit) const {
  const size_t guard = options_.memory.guard;
  if (guard == 0) return;
  for (const PersistentTensor& tensor : persistent_.all())
    for (int copy = 0; tensor.parent < 0 && copy < tensor.copies; ++copy)
      if (!visit(arena_.data() + tensor.offset + static_cast<size_t>(copy) * tensor.stride + tensor.bytes, guard,
                 tensor.name))
        return;
  for (const Buffer& buffer : plan(name).memory.buffers)
    if (!visit(transient_ + buffer.offset + buffer.bytes, guard,
               fmt::format("{}, buffer of node {}", name, buffer.first)))
      return;
}

void Program::fill_guards(const std::string& name) {
  each_guard(name, [&](char* at, size_t bytes, const std::string&) {
    put(at, bytes, [](void* to, size_t, size_t count) { std::memset(to, kGuardByte, count); });
    return true;
  });
}

std::string Program::find_broken_guard(const std::string& name) const {
  std::string broken;
  each_guard(name, [&](char* at, size_t bytes, const std::string& what) {
    get(at, bytes, [&](const void* from, size_t first, size_t count) {
      for (size_t i = 0; i < count && broken.empty(); ++i)
        if (static_cast<const unsigned char*>(from)[i] != kGuardByte)
          broken = fmt::format("{} byte {} after its end", what, first + i);
    });
    return broken.empty();
  });
  return broken;
}

}  // namespace capstan
