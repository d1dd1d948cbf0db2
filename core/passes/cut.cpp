#include "core/passes/cut.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/ops/transfer.h"

namespace capstan {
namespace {

bool is_replayed(Part part) { return part == Part::forward || part == Part::backward || part == Part::weights; }

class CutPass {
 public:
  CutPass(Tape& tape, const StageView& view) : tape_(tape), view_(view) {}

  std::vector<ChannelSpec> run() {
    find_crossings();
    std::vector<Node> whole;
    whole.swap(tape_.nodes);
    for (const Node& node : whole) {
      if (is_replayed(node.part) && !view_.holds(node.chunk)) continue;
      receive_inputs(node);
      tape_.nodes.push_back(node);
      send_outputs(node);
    }
    count_contributions();
    return paths_;
  }

 private:
  struct Crossing {
    int path, from_stage, to_chunk;
  };

  /// A tensor may cross to several chunks; each crossing is a path.
  void find_crossings() {
    std::vector<int> made_by(tape_.tensors.size(), -1);  // chunk
    std::vector<Part> made_in(tape_.tensors.size());
    for (const Node& node : tape_.nodes) {
      if (!is_replayed(node.part)) continue;
      for (const TensorId id : node.inputs) {
        const size_t i = static_cast<size_t>(id);
        if (id == kNoTensor || tape_.at(id).persistent >= 0 || made_by[i] == node.chunk) continue;
        if (!seen_.insert({id, node.chunk}).second) continue;
        add_crossing(id, made_by[i], made_in[i], node);
      }
      for (const TensorId id : node.outputs)
        if (id != kNoTensor)
          made_by[static_cast<size_t>(id)] = node.chunk, made_in[static_cast<size_t>(id)] = node.part;
    }
  }

  void add_crossing(TensorId id, int from, Part made_in, const Node& reader) {
    const int from_stage = from % view_.stages, to_stage = reader.chunk % view_.stages;
    CAPSTAN_CHECK(from_stage != to_stage, "{} crosses from chunk {} to chunk {} of one stage", tape_.at(id).name, from,
                  reader.chunk);
    CAPSTAN_CHECK(made_in == reader.part, "{} is made in the {} part of chunk {} and read in the {} part of chunk {}",
                  tape_.at(id).name, name_of(made_in), from, name_of(reader.part), reader.chunk);
    const TensorSpec& spec = tape_.at(id).spec;
    const size_t bytes = static_cast<size_t>(element_count(local_shape(spec, tape_.mesh))) * bytes_of(spec.dtype);
    crossings_[id].push_back({static_cast<int>(paths_.size()), from_stage, reader.chunk});
    paths_.push_back({from_stage, to_stage, bytes});
  }

  void receive_inputs(const Node& node) {
    for (const TensorId id : node.inputs) {
      const auto found = crossings_.find(id);
      if (found == crossings_.end()) continue;
      for (const Crossing& crossing : found->second) {
        if (crossing.to_chunk != node.chunk || !received_.insert(crossing.path).second) continue;
        Node receive{make_receive(crossing.path, crossing.from_stage, tape_.at(id).spec), {}, {id}, node.part};
        receive.chunk = node.chunk;
        tape_.nodes.push_back(std::move(receive));
      }
    }
  }

  void send_outputs(const Node& node) {
    for (const TensorId id : node.outputs) {
      const auto found = crossings_.find(id);
      if (found == crossings_.end()) continue;
      for (const Crossing& crossing : found->second) {
        Node send{make_send(crossing.path, crossing.to_chunk % view_.stages), {id}, {}, node.part};
        send.chunk = node.chunk;
        tape_.nodes.push_back(std::move(send));
      }
    }
  }

  /// The first of the contributions to a gradient that are left here begins it.
  void count_contributions() {
    std::vector<int> found(tape_.tensors.size());
    for (Node& node : tape_.nodes) {
      if (node.part != Part::backward) continue;
      bool first = false;
      for (const TensorId id : node.outputs)
        if (id != kNoTensor && tape_.at(id).contributions > 0) first = found[static_cast<size_t>(id)]++ == 0 || first;
      if (first) node.accumulate = Accumulate::after_first_microbatch;
    }
    for (size_t id = 0; id < found.size(); ++id)
      if (tape_.tensors[id].contributions > 0) tape_.tensors[id].contributions = found[id];
  }

  Tape& tape_;
  const StageView& view_;
  std::map<TensorId, std::vector<Crossing>> crossings_;
  std::set<std::pair<TensorId, int>> seen_;
  std::set<int> received_;
  std::vector<ChannelSpec> paths_;
};

/// Gradients of parameters alone become a part of their own. Their nodes come after all others on the tape, as they do
/// when it is replayed: lifetimes are counted in its order.
void split_weights(Tape& tape) {
  const auto apart = [&](const Node& node) { return node.part == Part::weights; };
  for (Node& node : tape.nodes)
    if (node.part == Part::backward && makes_only_gradients(tape, node)) node.part = Part::weights;
  const auto last = std::find_if(tape.nodes.rbegin(), tape.nodes.rend(),
                                 [&](const Node& node) { return node.part == Part::backward || apart(node); });
  std::stable_partition(tape.nodes.begin(), last.base(), [&](const Node& node) { return !apart(node); });
}

}  // namespace

bool makes_only_gradients(const Tape& tape, const Node& node) {
  return !node.outputs.empty() && std::all_of(node.outputs.begin(), node.outputs.end(), [&](TensorId id) {
    return id != kNoTensor && tape.at(id).contributions > 0;
  });
}

std::vector<ChannelSpec> cut(Tape& tape, const StageView& view) {
  std::vector<ChannelSpec> paths;
  if (view.stages > 1) paths = CutPass(tape, view).run();
  if (view.splits_weights) split_weights(tape);
  return paths;
}

}  // namespace capstan
