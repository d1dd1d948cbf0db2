#include "core/job_proof.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/schedule_check.h"
#include "core/training_program.h"

namespace capstan {
namespace {

[[noreturn]] void fault(const std::string& what) {
  throw Error::make(ExitCode::internal, "the job cannot run: {}", what);
}

std::string ends_of(const ChannelSpec& path) { return fmt::format("from stage {} to stage {}", path.from, path.to); }

/// What a stage says to other stages in a step, in order.
struct Event {
  enum class Kind : uint8_t { send, receive, meet } kind = Kind::meet;
  int path = -1;      ///< of a message
  std::string where;  ///< part, microbatch and op
  std::string what;   ///< equal on all that meet: op, group and size
  bool ends = false;  ///< only the first and the last stage meet
};

bool between_stages(const Node& node) { return node.op->attributes().starts_with("pp "); }

/// What a node sends, or receives.
const TapeTensor& content(const Tape& tape, const Node& node) {
  return tape.at(node.inputs.empty() ? node.outputs.at(0) : node.inputs[0]);
}

std::string size_of(const Tape& tape, const Node& node) { return to_string(content(tape, node).spec); }

int path_of(const Node& node) {
  const std::string text = node.op->attributes();  // "pp path 3 to stage 1"
  return std::stoi(text.substr(std::string("pp path ").size()));
}

Event event_of(const Tape& tape, const Node& node, const std::string& when) {
  const std::string name(node.op->name());
  Event event{Event::Kind::meet, -1,
              fmt::format("{}, {} ({}) of {}", when, name, node.op->attributes(), content(tape, node).name),
              fmt::format("{} ({}) of {}", name, node.op->attributes(), size_of(tape, node)),
              node.op->attributes().ends_with("first and last stage")};
  if (name == "send" || name == "receive") {
    event.kind = name == "send" ? Event::Kind::send : Event::Kind::receive;
    event.path = path_of(node);
  }
  return event;
}

/// The events of one step of a stage.
std::vector<Event> events_of(const StageProof& stage, int index) {
  std::map<std::pair<Part, int>, std::vector<const Node*>> talking;
  for (const Node& node : stage.tape->nodes)
    if (node.op->is_collective() && between_stages(node)) talking[{node.part, node.chunk}].push_back(&node);
  std::vector<Event> events;
  const auto replay = [&](Part part, int chunk, const std::string& when) {
    const auto found = talking.find({part, chunk});
    if (found == talking.end()) return;
    for (const Node* node : found->second) events.push_back(event_of(*stage.tape, *node, when));
  };
  replay(Part::begin, 0, fmt::format("stage {}, begin", index));
  constexpr Part parts[] = {Part::forward, Part::backward, Part::weights};
  for (const Action& action : stage.schedule->actions[static_cast<size_t>(index)])
    replay(parts[static_cast<int>(action.kind)], action.chunk,
           fmt::format("stage {}, {}", index, stage.schedule->name_of(action)));
  replay(Part::update, 0, fmt::format("stage {}, update", index));
  return events;
}

/// Plays the events of all stages against each other.
class Meeting {
 public:
  Meeting(const std::vector<StageProof>& stages) : paths_(stages[0].paths) {
    for (size_t s = 0; s < stages.size(); ++s) events_.push_back(events_of(stages[s], static_cast<int>(s)));
    next_.resize(events_.size()), waiting_.resize(paths_.size());
  }

  void run(JobProof& proof) {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t s = 0; s < events_.size(); ++s)
        while (!done(s) && step(static_cast<int>(s), proof)) moved = true;
    }
    std::string standing;
    for (size_t s = 0; s < events_.size(); ++s)
      if (!done(s)) standing += fmt::format("{}{}", standing.empty() ? "" : "; ", current(s).where);
    if (!standing.empty()) fault("it stands still at " + standing);
    for (size_t p = 0; p < waiting_.size(); ++p)
      if (waiting_[p] > 0)
        fault(fmt::format("{} messages of path {}, {}, are never received", waiting_[p], p, ends_of(paths_[p])));
  }

 private:
  bool done(size_t stage) const { return next_[stage] == events_[stage].size(); }
  const Event& current(size_t stage) const { return events_[stage][next_[stage]]; }

  bool step(int stage, JobProof& proof) {
    const Event& event = current(static_cast<size_t>(stage));
    if (event.kind == Event::Kind::meet) return meet(event, proof);
    if (event.path < 0 || event.path >= static_cast<int>(paths_.size())) fault(event.where + ": there is no such path");
    const ChannelSpec& path = paths_[static_cast<size_t>(event.path)];
    int& waiting = waiting_[static_cast<size_t>(event.path)];
    const bool sends = event.kind == Event::Kind::send;
    if ((sends ? path.from : path.to) != stage)
      fault(fmt::format("{}: path {} goes {}", event.where, event.path, ends_of(path)));
    if (sends ? waiting == kPathCapacity : waiting == 0) return false;
    waiting += sends ? 1 : -1;
    proof.messages += sends;
    ++next_[static_cast<size_t>(stage)];
    return true;
  }

  /// All that belong to the group have to stand at the same collective.
  bool meet(const Event& event, JobProof& proof) {
    const size_t last = events_.size() - 1;
    for (size_t s = 0; s < events_.size(); ++s) {
      if (event.ends && s != 0 && s != last) continue;
      if (done(s)) fault(fmt::format("{} waits for stage {}, which has nothing more to do", event.where, s));
      if (current(s).kind != Event::Kind::meet) return false;
      if (current(s).what != event.what)
        fault(fmt::format("{} and {} are not the same collective ({}; {})", event.where, current(s).where, event.what,
                          current(s).what));
    }
    for (size_t s = 0; s < events_.size(); ++s)
      if (!event.ends || s == 0 || s == last) ++next_[s];
    ++proof.collectives;
    return true;
  }

  const std::vector<ChannelSpec>& paths_;
  std::vector<std::vector<Event>> events_;
  std::vector<size_t> next_;
  std::vector<int> waiting_;
};

void prove_same_paths(const std::vector<StageProof>& stages, size_t stage) {
  const std::vector<ChannelSpec>&own = stages[stage].paths, &first = stages[0].paths;
  if (own.size() != first.size())
    fault(fmt::format("stage {} knows {} paths, stage 0 knows {}", stage, own.size(), first.size()));
  for (size_t p = 0; p < own.size(); ++p)
    if (!(own[p] == first[p]))
      fault(fmt::format("on stage {} path {} goes {} with {} bytes, on stage 0 {} with {}", stage, p, ends_of(own[p]),
                        own[p].bytes, ends_of(first[p]), first[p].bytes));
}

/// Each path has one sender and one receiver, of tensors of one spec.
void prove_paths(const std::vector<StageProof>& stages, JobProof& proof) {
  struct Use {
    int senders = 0, receivers = 0;
    std::string sent, received;
  };
  std::vector<Use> uses(stages[0].paths.size());
  for (size_t s = 0; s < stages.size(); ++s) {
    prove_same_paths(stages, s);
    for (const Node& node : stages[s].tape->nodes) {
      if (!node.op->is_collective() || !between_stages(node)) continue;
      const Event event = event_of(*stages[s].tape, node, fmt::format("stage {}, {}", s, name_of(node.part)));
      if (event.kind == Event::Kind::meet) continue;
      if (event.path >= static_cast<int>(uses.size())) fault(event.where + ": there is no such path");
      Use& use = uses[static_cast<size_t>(event.path)];
      const bool sends = event.kind == Event::Kind::send;
      if (++(sends ? use.senders : use.receivers) > 1) fault(event.where + ": this path has two of these");
      (sends ? use.sent : use.received) = size_of(*stages[s].tape, node);
    }
  }
  for (size_t p = 0; p < uses.size(); ++p) {
    if (uses[p].senders != 1 || uses[p].receivers != 1)
      fault(fmt::format("path {}, {}, has {} senders and {} receivers", p, ends_of(stages[0].paths[p]), uses[p].senders,
                        uses[p].receivers));
    if (uses[p].sent != uses[p].received)
      fault(fmt::format("path {}, {}: sent is {}, received {}", p, ends_of(stages[0].paths[p]), uses[p].sent,
                        uses[p].received));
  }
  proof.paths = uses.size();
}

/// Which parameters the nodes of a stage read.
std::vector<bool> read_by(const StageProof& stage) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < stage.parameters->size(); ++i) index[stage.parameters->at(static_cast<int>(i)).name] = i;
  std::vector<bool> reads(stage.parameters->size());
  for (const Node& node : stage.tape->nodes) {
    if (node.part != Part::forward && node.part != Part::backward && node.part != Part::weights) continue;
    for (const TensorId id : node.inputs) {
      if (id == kNoTensor || stage.tape->at(id).persistent < 0) continue;
      std::string name = stage.tape->at(id).name;
      if (name.starts_with("working.")) name = name.substr(std::string("working.").size());
      if (const auto found = index.find(name); found != index.end()) reads[found->second] = true;
    }
  }
  return reads;
}

/// The parts of a dim that the ranks of the mesh hold: every element once for each set of coordinates that divides it.
void prove_shards(const Parameter& parameter, const Mesh& mesh) {
  for (const Axis axis : kAllAxes) {
    const Placement placement = on(parameter.placements, axis);
    if (!placement.is_shard() || mesh.size(axis) == 1) continue;
    const int64_t extent = parameter.shape.at(static_cast<size_t>(placement.dim));
    if (extent % mesh.size(axis) != 0)
      fault(fmt::format("{}: dim {} of {} elements is divided over {} ranks of {}", parameter.name, placement.dim,
                        extent, mesh.size(axis), name_of(axis)));
  }
}

/// Parameters of a stage lie in their runs without overlap, and runs in the buffer; runs divide over the ranks of dp.
void prove_layout(const StageProof& stage, size_t index) {
  const FlatLayout& layout = *stage.layout;
  const Mesh& mesh = stage.tape->mesh;
  struct Piece {
    int64_t first, end;
    std::string name;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < stage.holds.size(); ++i) {
    const Parameter& parameter = stage.parameters->at(static_cast<int>(i));
    if (parameter.frozen || !stage.holds[i]) continue;
    const FlatRun& run = layout.runs.at(static_cast<size_t>(layout.run_of.at(i)));
    const TensorSpec spec{parameter.shape, DType::f32, effective(parameter.placements, mesh)};
    const Piece piece{layout.first[i], layout.first[i] + element_count(local_shape(spec, mesh)), parameter.name};
    if (!run.held || piece.first < run.first || piece.end > run.first + run.used)
      fault(fmt::format("stage {}: {} lies outside of its run", index, parameter.name));
    pieces.push_back(piece);
  }
  for (const FlatRun& run : layout.runs)
    if (run.held && (run.count % mesh.size(Axis::dp) != 0 || run.used > run.count))
      fault(fmt::format("stage {}: a run of {} elements of unit {} does not divide over {} ranks of dp", index,
                        run.count, run.unit, mesh.size(Axis::dp)));
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.first < b.first; });
  for (size_t i = 1; i < pieces.size(); ++i)
    if (pieces[i].first < pieces[i - 1].end)
      fault(fmt::format("stage {}: {} and {} share memory", index, pieces[i - 1].name, pieces[i].name));
}

/// Every parameter is on the stages that read it and on no other; its gradient is formed there.
void prove_parameters(const std::vector<StageProof>& stages, JobProof& proof) {
  const ParameterSet& parameters = *stages[0].parameters;
  std::vector<int> holders(parameters.size());
  for (size_t s = 0; s < stages.size(); ++s) {
    const std::vector<bool> reads = read_by(stages[s]);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const std::string& name = parameters.at(static_cast<int>(i)).name;
      if (stages[s].holds[i] && !reads[i]) fault(fmt::format("stage {} holds {}, which nothing there reads", s, name));
      if (!stages[s].holds[i] && reads[i]) fault(fmt::format("stage {} reads {}, which it does not hold", s, name));
      holders[i] += stages[s].holds[i];
    }
    prove_layout(stages[s], s);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (holders[i] == 0) fault(parameters.at(static_cast<int>(i)).name + " is on no stage");
    prove_shards(parameters.at(static_cast<int>(i)), stages[0].tape->mesh);
  }
  proof.parameters = parameters.size();
}

}  // namespace

StageProof proof_of(const TrainingProgram& training) {
  StageProof stage{&training.program().plan("train").tape, &training.schedule(), &training.layout(),
                   &training.program().parameters(),       training.paths(),     {}};
  const int own = training.program().mesh().coordinate(Axis::pp);
  for (size_t i = 0; i < stage.parameters->size(); ++i) {
    const std::vector<int>& holders = training.holders(static_cast<int>(i));
    stage.holds.push_back(std::find(holders.begin(), holders.end(), own) != holders.end());
  }
  return stage;
}

JobProof prove(const std::vector<StageProof>& stages) {
  JobProof proof;
  for (const StageProof& stage : stages) verify(*stage.tape, "planning");
  check(*stages[0].schedule, kPathCapacity);
  prove_paths(stages, proof);
  prove_parameters(stages, proof);
  for (size_t s = 0; s < stages.size(); ++s) {
    prove_conversions(*stages[s].tape, s);
    proof.ownership = prove_updates(*stages[s].tape, *stages[s].layout, s);
  }
  Meeting(stages).run(proof);
  return proof;
}

}  // namespace capstan
