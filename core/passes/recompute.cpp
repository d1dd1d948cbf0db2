#include "core/passes/recompute.h"

#include <map>

namespace capstan {

namespace {

class RecomputePass {
 public:
  RecomputePass(Tape& tape, const Recompute& choice) : tape_(tape), choice_(choice) {}

  void run() {
    find_producers();
    find_dropped();
    const std::vector<Node> before = tape_.nodes;
    tape_.nodes.clear();
    for (Node node : before) {
      if (node.part == Part::backward || node.part == Part::weights)
        for (TensorId& id : node.inputs) id = available(id, node.part, before);
      tape_.nodes.push_back(std::move(node));
    }
  }

 private:
  void find_producers() {
    producer_.assign(tape_.tensors.size(), -1);
    for (size_t i = 0; i < tape_.nodes.size(); ++i)
      if (tape_.nodes[i].part == Part::forward)
        for (const TensorId id : tape_.nodes[i].outputs)
          if (id != kNoTensor && tape_.at(id).persistent < 0) producer_[static_cast<size_t>(id)] = static_cast<int>(i);
  }

  bool recomputed_region(int region) const { return region >= 0 && (choice_.layers < 0 || region < choice_.layers); }

  void find_dropped() {
    dropped_.assign(tape_.tensors.size(), false);
    for (size_t id = 0; id < tape_.tensors.size(); ++id) {
      if (producer_[id] < 0) continue;
      const Node& node = tape_.nodes[static_cast<size_t>(producer_[id])];
      if (!recomputed_region(node.region) || node.op->is_loss()) continue;
      dropped_[id] = choice_.policy == Recompute::Policy::full || node.op->cheap();
    }
    for (const Node& node :
         tape_.nodes) {  // what another region reads in the forward pass is kept: it enters that region
      if (node.part != Part::forward) continue;
      for (const TensorId id : node.inputs)
        if (id != kNoTensor && producer_[static_cast<size_t>(id)] >= 0 &&
            tape_.nodes[static_cast<size_t>(producer_[static_cast<size_t>(id)])].region != node.region)
          dropped_[static_cast<size_t>(id)] = false;
    }
  }

  /// The tensor to read in place of `id` in this part of the backward pass: itself, or its second making, which belongs
  /// to the part that reads it first.
  TensorId available(TensorId id, Part part, const std::vector<Node>& before) {
    if (id == kNoTensor || static_cast<size_t>(id) >= dropped_.size() || !dropped_[static_cast<size_t>(id)]) return id;
    if (const auto found = again_.find(id); found != again_.end()) return found->second;
    Node node = before[static_cast<size_t>(producer_[static_cast<size_t>(id)])];
    for (TensorId& input : node.inputs) input = available(input, part, before);
    node.part = part;
    node.recomputed = true;
    for (TensorId& output : node.outputs) {
      if (output == kNoTensor) continue;
      TapeTensor copy = tape_.at(output);
      copy.name += " again";
      tape_.tensors.push_back(copy);
      const TensorId made = static_cast<TensorId>(tape_.tensors.size()) - 1;
      again_[output] = made;
      output = made;
    }
    tape_.nodes.push_back(std::move(node));
    return again_.at(id);
  }

  Tape& tape_;
  const Recompute& choice_;
  std::vector<int> producer_;
  std::vector<bool> dropped_;
  std::map<TensorId, TensorId> again_;
};

}  // namespace

void recompute(Tape& tape, const Recompute& choice) {
  if (choice.policy != Recompute::Policy::none) RecomputePass(tape, choice).run();
}

}  // namespace capstan
