#include "core/passes/windows.h"

#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/ops/conversion.h"
#include "core/ops/elementwise.h"

namespace capstan {
namespace {

using PartKey = std::pair<Part, int>;  // and chunk
PartKey key_of(const Node& node) { return {node.part, node.chunk}; }

std::string run_name(const char* flat, int run) { return fmt::format("{}.run{}", flat, run); }

class WindowPass {
 public:
  WindowPass(Tape& tape, const WindowPlan& plan) : tape_(tape), plan_(plan) {
    for (size_t id = 0; id < tape.tensors.size(); ++id)
      if (tape.tensors[id].persistent >= 0)
        of_persistent_.emplace(tape.tensors[id].persistent, static_cast<TensorId>(id));
  }

  void run() {
    find_contributions();
    find_gathers();
    std::vector<Node> before;
    before.swap(tape_.nodes);
    for (size_t i = 0; i < before.size(); ++i) {
      for (const int unit : gathers_[i]) gather(before[i], unit);
      for (const int run : begins_[i]) clear(before[i], run);
      tape_.nodes.push_back(before[i]);
      if (!ends_[i].empty()) add_pieces(before[i]);
      for (const int run : ends_[i]) reduce(before[i], run);
      if (last_of_.at(key_of(before[i])) == i) add_pieces(before[i]);
    }
  }

 private:
  const FlatRun& run(int index) const { return plan_.layout->runs[static_cast<size_t>(index)]; }
  int lookup(const std::vector<int>& runs, TensorId id) const {
    if (id == kNoTensor || tape_.at(id).persistent < 0) return -1;
    const size_t index = static_cast<size_t>(tape_.at(id).persistent);
    return index < runs.size() ? runs[index] : -1;
  }

  /// For each part the first and the last node that contribute to a run's gradients. All of them add to what is there.
  void find_contributions() {
    std::map<std::pair<PartKey, int>, std::pair<size_t, size_t>> found;
    begins_.resize(tape_.nodes.size()), ends_.resize(tape_.nodes.size());
    for (size_t i = 0; i < tape_.nodes.size(); ++i)
      for (const TensorId id : tape_.nodes[i].outputs) {
        const int index = lookup(plan_.run_of_gradient, id);
        if (index < 0 || tape_.at(id).contributions == 0) continue;
        found.try_emplace({key_of(tape_.nodes[i]), index}, i, i).first->second.second = i;
        tape_.nodes[i].accumulate = Accumulate::always;
        tape_.tensors[static_cast<size_t>(id)].windowed = true;
      }
    for (const auto& [what, where] : found) {
      begins_[where.first].push_back(what.second);
      ends_[where.second].push_back(what.second);
    }
    check_contributions(found);
  }

  /// Runs whose windows share memory are never contributed to in turns.
  void check_contributions(const std::map<std::pair<PartKey, int>, std::pair<size_t, size_t>>& found) const {
    for (auto a = found.begin(); a != found.end(); ++a)
      for (auto b = std::next(a); b != found.end() && b->first.first == a->first.first; ++b)
        CAPSTAN_CHECK(a->second.second < b->second.first || b->second.second < a->second.first ||
                          !overlap(a->first.second, b->first.second),
                      "runs {} and {} have gradients in one window at once", a->first.second, b->first.second);
  }
  bool overlap(int a, int b) const {
    const auto place = [&](int index) {
      const int at = plan_.space->find(run_name("gradients.window", index));
      const PersistentSpace::Root root = plan_.space->root(at);
      return std::tuple(root.index, root.begin, root.begin + plan_.space->at(at).bytes);
    };
    const auto [root_a, begin_a, end_a] = place(a);
    const auto [root_b, begin_b, end_b] = place(b);
    return root_a == root_b && begin_a < end_b && begin_b < end_a;
  }

  TensorId persistent(const std::string& name) {
    const int index = plan_.space->find(name);
    CAPSTAN_CHECK(index >= 0, "there is no persistent tensor {}", name);
    const auto known = of_persistent_.find(index);
    if (known != of_persistent_.end()) return known->second;
    const PersistentTensor& tensor = plan_.space->at(index);
    tape_.tensors.push_back({tensor.name, tensor.spec, tensor.purpose, index});
    return of_persistent_[index] = static_cast<TensorId>(tape_.tensors.size()) - 1;
  }
  TensorId transient(const std::string& name, const TensorSpec& spec) {
    tape_.tensors.push_back({name, spec, Purpose::window});
    return static_cast<TensorId>(tape_.tensors.size()) - 1;
  }
  void insert(const Node& beside, OpPtr op, std::vector<TensorId> in, std::vector<TensorId> out,
              Accumulate accumulate = Accumulate::never) {
    tape_.nodes.push_back({std::move(op), std::move(in), std::move(out), beside.part, 0, -1, beside.chunk, accumulate});
  }

  /// Before which node each unit is gathered: behind the last one that reads what its window held before.
  void find_gathers() {
    struct Window {
      int unit = -1;
      size_t free = 0;  ///< behind the last node that reads it
    };
    std::map<std::pair<PartKey, int>, Window> windows;
    std::map<PartKey, size_t> first;
    gathers_.resize(tape_.nodes.size());
    for (size_t i = 0; i < tape_.nodes.size(); ++i) {
      const Node& node = tape_.nodes[i];
      const PartKey key = key_of(node);
      first.try_emplace(key, i), last_of_[key] = i;
      for (size_t k = 0; k < node.inputs.size(); ++k) {
        const int index = lookup(plan_.run_of_working, node.inputs[k]);
        if (index < 0 || !(node.op->reads() & (1u << k))) continue;
        const int unit = run(index).unit;
        const auto at =
            windows.try_emplace({key, plan_.window_of_unit[static_cast<size_t>(unit)]}, Window{-1, first.at(key)});
        Window& window = at.first->second;
        CAPSTAN_CHECK(window.unit == unit || window.free <= i, "{} needs units {} and {} in one window",
                      node.op->name(), window.unit, unit);
        if (window.unit != unit) gathers_[next_of(key, window.free)].push_back(unit);
        window = {unit, i + 1};
      }
    }
  }

  /// The first node of that part at or behind this place.
  size_t next_of(const PartKey& key, size_t at) const {
    while (key_of(tape_.nodes[at]) != key) ++at;
    return at;
  }

  void gather(const Node& node, int unit) {
    for (size_t r = 0; r < plan_.layout->runs.size(); ++r) {
      const FlatRun& part = plan_.layout->runs[r];
      if (part.unit != unit || !part.held) continue;
      TensorId piece = persistent(run_name("parameters", static_cast<int>(r)));
      TensorSpec spec = tape_.at(piece).spec;
      if (spec.dtype != plan_.working) {
        spec.dtype = plan_.working;
        const TensorId narrow = transient(run_name("piece", static_cast<int>(r)), spec);
        insert(node, make_cast(plan_.working), {piece}, {narrow});
        piece = narrow;
      }
      insert(node, make_conversion(Axis::dp, Shard(0), Replicate), {piece},
             {persistent(run_name("working", static_cast<int>(r)))});
      tape_.nodes.back().lane = true;
    }
  }

  void clear(const Node& node, int index) {
    insert(node, make_clear(), {}, {persistent(run_name("gradients.window", index))});
  }

  void reduce(const Node& node, int index) {
    const TensorId owed = persistent(run_name("gradients.window", index)),
                   sum = persistent(run_name("gradients", index));
    const TensorId piece = transient(run_name("gradients.piece", index), tape_.at(sum).spec);
    insert(node, make_conversion(Axis::dp, Partial, Shard(0)), {owed}, {piece});
    tape_.nodes.back().lane = true;
    pieces_[key_of(node)].push_back({index, piece, sum});
  }

  /// What the reductions of the unit before have left.
  void add_pieces(const Node& node) {
    for (const auto& [index, piece, sum] : std::exchange(pieces_[key_of(node)], {})) {
      const bool first = summed_.insert(index).second;
      insert(node, make_accumulate(), {piece}, {sum}, first ? Accumulate::after_first_microbatch : Accumulate::always);
    }
  }

  Tape& tape_;
  const WindowPlan& plan_;
  std::map<int, TensorId> of_persistent_;
  std::vector<std::vector<int>> begins_, ends_;  ///< by node: runs of gradients
  std::vector<std::vector<int>> gathers_;        ///< by node: units
  std::map<PartKey, size_t> last_of_;            ///< node of a part
  struct Piece {
    int run = -1;
    TensorId piece = kNoTensor, sum = kNoTensor;
  };
  std::map<PartKey, std::vector<Piece>> pieces_;  ///< reduced, to be added
  std::set<int> summed_;                          ///< runs that an earlier part of the microbatch has added to
};

}  // namespace

void open_windows(Tape& tape, const WindowPlan& plan) { WindowPass(tape, plan).run(); }

}  // namespace capstan
