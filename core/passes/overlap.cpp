#include "core/passes/overlap.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace capstan {
namespace {

using Sequence = std::tuple<Part, int, int>;  // part, level, chunk
Sequence sequence_of(const Node& node) { return {node.part, node.level, node.chunk}; }

/// Bytes of a persistent tensor without parent, or a transient tensor.
struct Touch {
  int64_t root = 0;  ///< persistent index, or -1 - id
  size_t begin = 0, end = 1;
  bool written = false;
  int node = -1;
};

bool meet(const Touch& a, const Touch& b) { return (a.written || b.written) && a.begin < b.end && b.begin < a.end; }

class OverlapPass {
 public:
  OverlapPass(const Tape& tape, const PersistentSpace& space) : tape_(tape), space_(space) {
    const size_t nodes = tape.nodes.size();
    result_.waits.resize(nodes), result_.done.resize(nodes), result_.releases.resize(nodes);
    result_.release_count.resize(nodes);
    for (size_t i = 0; i < nodes; ++i) {
      result_.done[i] = static_cast<int>(i);
      last_of_[sequence_of(tape.nodes[i])] = static_cast<int>(i);
      if (tape.nodes[i].lane) each_touch(i, [&](const Touch& touch) { of_lane_[touch.root].push_back(touch); });
    }
  }

  OverlapPlan run() {
    if (of_lane_.empty()) return std::move(result_);
    const int nodes = static_cast<int>(tape_.nodes.size());
    for (int i = 0; i < nodes; ++i) result_.waits[static_cast<size_t>(i)] = partners(i);
    find_done();
    for (int i = 0; i < nodes; ++i)
      if (node(i).lane && node(i).part == Part::update) find_releases(i);
    return std::move(result_);
  }

 private:
  const Node& node(int index) const { return tape_.nodes[static_cast<size_t>(index)]; }

  template <typename Use>
  void each_touch(size_t index, Use use) const {
    const Node& at = tape_.nodes[index];
    for (const auto* list : {&at.inputs, &at.outputs})
      for (const TensorId id : *list) {
        if (id == kNoTensor) continue;
        Touch touch{-1 - static_cast<int64_t>(id), 0, 1, list == &at.outputs, static_cast<int>(index)};
        if (const int place = tape_.at(id).persistent; place >= 0) {
          const auto [root, begin] = space_.root(place);
          touch.root = root, touch.begin = begin, touch.end = begin + space_.at(place).bytes;
        }
        use(touch);
      }
  }

  /// Lane nodes that touch what this node touches, one of the two writing it.
  std::vector<int> partners(int index) const {
    std::set<int> found;
    each_touch(static_cast<size_t>(index), [&](const Touch& touch) {
      const auto lane = of_lane_.find(touch.root);
      if (lane == of_lane_.end()) return;
      for (const Touch& other : lane->second)
        if (other.node != index && meet(touch, other)) found.insert(other.node);
    });
    return {found.begin(), found.end()};
  }

  void find_done() {
    std::map<int, int> first;
    for (int i = static_cast<int>(tape_.nodes.size()) - 1; i >= 0; --i) {
      if (node(i).lane) continue;
      for (const int lane : result_.waits[static_cast<size_t>(i)])
        if (lane < i && sequence_of(node(lane)) == sequence_of(node(i))) first[lane] = i;
    }
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i) {
      if (!node(i).lane) continue;
      const auto found = first.find(i);
      result_.done[static_cast<size_t>(i)] = found != first.end() ? found->second : last_of_[sequence_of(node(i))];
    }
  }

  bool all_persistent(int index) const {
    for (const auto* list : {&node(index).inputs, &node(index).outputs})
      for (const TensorId id : *list)
        if (id != kNoTensor && tape_.at(id).persistent < 0) return false;
    return true;
  }

  static bool replayed(Part part) { return part == Part::forward || part == Part::backward || part == Part::weights; }

  /// Early, when nothing but the replayed parts, and begin in front of them, touches its operands before it, and lane
  /// nodes that are early too.
  void find_releases(int index) {
    if (!all_persistent(index)) return;
    std::map<Sequence, int> last;
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i) {
      if (node(i).lane || !touches(i, index)) continue;
      if (replayed(node(i).part))
        last[sequence_of(node(i))] = i;
      else if (node(i).part != Part::begin && (node(i).part != Part::update || i < index))
        return;
    }
    for (const int before : result_.waits[static_cast<size_t>(index)]) {
      if (before > index || node(before).part != Part::update) continue;
      if (!result_.early(static_cast<size_t>(before))) return;
      for (const auto& [sequence, at] : released_by_[before]) last[sequence] = std::max(last[sequence], at);
    }
    for (const auto& [sequence, at] : last) result_.releases[static_cast<size_t>(at)].push_back(index);
    result_.release_count[static_cast<size_t>(index)] = static_cast<int>(last.size());
    released_by_[index] = std::move(last);
  }

  bool touches(int index, int lane) const {
    const std::vector<int>& waits = result_.waits[static_cast<size_t>(index)];
    return std::binary_search(waits.begin(), waits.end(), lane);
  }

  const Tape& tape_;
  const PersistentSpace& space_;
  std::map<int64_t, std::vector<Touch>> of_lane_;  ///< by root
  std::map<Sequence, int> last_of_;
  std::map<int, std::map<Sequence, int>> released_by_;
  OverlapPlan result_;
};

}  // namespace

OverlapPlan find_overlap(const Tape& tape, const PersistentSpace& space) { return OverlapPass(tape, space).run(); }

}  // namespace capstan
