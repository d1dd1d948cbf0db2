#include "core/passes/memory.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/persistent.h"

namespace capstan {
namespace {

class MemoryPass {
 public:
  MemoryPass(const Tape& tape, const std::vector<size_t>& scratch, const std::vector<int>& done,
             const MemoryOptions& options)
      : tape_(tape),
        done_(done),
        options_(options),
        buffer_of_(tape.tensors.size(), -1),
        ring_of_(tape.tensors.size(), -1) {
    find_lifetimes();
    make_rings();
    make_buffers(scratch);
  }

  MemoryPlan run() {
    place();
    MemoryPlan plan;
    plan.offset = in_ring_;
    for (size_t id = 0; id < tape_.tensors.size(); ++id)
      if (buffer_of_[id] >= 0) plan.offset[id] = buffers_[static_cast<size_t>(buffer_of_[id])].offset;
    for (const int buffer : scratch_buffer_)
      plan.scratch.push_back(buffer < 0 ? 0 : buffers_[static_cast<size_t>(buffer)].offset);
    plan.bytes = stash_;
    for (const Buffer& buffer : buffers_) plan.bytes = std::max(plan.bytes, buffer.offset + room(buffer.bytes));
    plan.sum_of_tensors = sum_;
    list_stash();
    measure_peak(plan);
    plan.buffers = std::move(buffers_);
    plan.rings = std::move(rings_);
    plan.ring_of = std::move(ring_of_);
    return plan;
  }

 private:
  bool transient(TensorId id) const { return id != kNoTensor && tape_.at(id).persistent < 0; }
  size_t bytes_of_tensor(TensorId id) const {
    const TensorSpec& spec = tape_.at(id).spec;
    return static_cast<size_t>(element_count(local_shape(spec, tape_.mesh))) * bytes_of(spec.dtype);
  }
  size_t room(size_t bytes) const { return aligned(bytes) + aligned(options_.guard); }
  int done(int index) const { return done_.empty() ? index : done_[static_cast<size_t>(index)]; }
  const Node& node(int index) const { return tape_.nodes[static_cast<size_t>(index)]; }
  int group_of(const Node& n) const { return options_.order.group(n.part, n.chunk); }

  void find_lifetimes() {
    first_.assign(tape_.tensors.size(), -1);
    last_.assign(tape_.tensors.size(), -1);
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i)
      for (const auto* list : {&node(i).inputs, &node(i).outputs})
        for (const TensorId id : *list) {
          if (!transient(id)) continue;
          int& first = first_[static_cast<size_t>(id)];
          if (first < 0) first = i;
          last_[static_cast<size_t>(id)] = std::max(last_[static_cast<size_t>(id)], done(i));
          if (group_of(node(first)) != group_of(node(i))) leave_to(id, node(first), node(i));
        }
  }

  /// Notes that a tensor made in the part of `from` is read in that of `to`, which comes later.
  void leave_to(TensorId id, const Node& from, const Node& to) {
    const auto stashes = [](Part part) {
      return part == Part::forward || part == Part::backward || part == Part::weights;
    };
    CAPSTAN_CHECK(from.chunk == to.chunk && stashes(from.part) && stashes(to.part) && from.part <= to.part,
                  "{} is made in part {} of chunk {} and read in part {} of chunk {}", tape_.at(id).name,
                  name_of(from.part), from.chunk, name_of(to.part), to.chunk);
    Part& read = left_to_.try_emplace(id, to.part).first->second;
    read = std::max(read, to.part);
  }

  void make_rings() {
    in_ring_.assign(tape_.tensors.size(), 0);
    for (const auto& [id, read] : left_to_) {
      const Node& maker = node(first_[static_cast<size_t>(id)]);
      const auto found = std::find_if(rings_.begin(), rings_.end(), [&, part = read](const Ring& ring) {
        return ring.chunk == maker.chunk && ring.made == maker.part && ring.read == part;
      });
      const size_t ring = static_cast<size_t>(found - rings_.begin());
      if (found == rings_.end())
        rings_.push_back({maker.chunk, maker.part, read, 0, 0, options_.order.slots(maker.part, read, maker.chunk)});
      ring_of_[static_cast<size_t>(id)] = static_cast<int>(ring);
      in_ring_[static_cast<size_t>(id)] = rings_[ring].stride;
      rings_[ring].stride += room(bytes_of_tensor(id));
      sum_ += aligned(bytes_of_tensor(id));
    }
    for (Ring& ring : rings_) {
      ring.offset = stash_;
      stash_ += ring.stride * static_cast<size_t>(ring.slots);
    }
    for (const auto& [id, read] : left_to_)
      in_ring_[static_cast<size_t>(id)] += rings_[static_cast<size_t>(ring_of_[static_cast<size_t>(id)])].offset;
  }

  void make_buffers(const std::vector<size_t>& scratch) {
    scratch_buffer_.assign(tape_.nodes.size(), -1);
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i) {
      if (options_.in_place) share_with_inputs(node(i), i);
      for (const TensorId id : node(i).outputs) {
        if (!transient(id) || ring_of_[static_cast<size_t>(id)] >= 0) continue;
        if (buffer_of_[static_cast<size_t>(id)] < 0) {
          buffer_of_[static_cast<size_t>(id)] = static_cast<int>(buffers_.size());
          buffers_.push_back(
              {0, bytes_of_tensor(id), i, last_[static_cast<size_t>(id)], tape_.at(id).purpose, group_of(node(i))});
        }
        sum_ += aligned(bytes_of_tensor(id));
      }
      if (scratch[static_cast<size_t>(i)] > 0) {
        scratch_buffer_[static_cast<size_t>(i)] = static_cast<int>(buffers_.size());
        buffers_.push_back({0, scratch[static_cast<size_t>(i)], i, done(i), Purpose::scratch, group_of(node(i))});
      }
    }
  }

  void share_with_inputs(const Node& n, int i) {
    std::vector<int> taken;
    for (const InPlace& pair : n.op->in_place()) {
      const TensorId out = n.outputs[static_cast<size_t>(pair.output)], in = n.inputs[static_cast<size_t>(pair.input)];
      if (!transient(out) || !transient(in) || buffer_of_[static_cast<size_t>(out)] >= 0) continue;
      if (ring_of_[static_cast<size_t>(out)] >= 0 || ring_of_[static_cast<size_t>(in)] >= 0) continue;
      // An op that reads one tensor as two operands would find the second one written over.
      if (last_[static_cast<size_t>(in)] != i || std::count(n.inputs.begin(), n.inputs.end(), in) > 1) continue;
      const int buffer = buffer_of_[static_cast<size_t>(in)];
      Buffer& shared = buffers_[static_cast<size_t>(buffer)];
      if (shared.last != i || shared.bytes < bytes_of_tensor(out)) continue;
      if (std::find(taken.begin(), taken.end(), buffer) != taken.end()) continue;
      taken.push_back(buffer);
      buffer_of_[static_cast<size_t>(out)] = buffer;
      shared.last = last_[static_cast<size_t>(out)];
    }
  }

  bool together(const Buffer& a, const Buffer& b) const {
    return !options_.reuse || (a.group == b.group && a.first <= b.last && b.first <= a.last);
  }

  /// Behind the stash.
  void place() {
    std::vector<size_t> order(buffers_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return buffers_[a].bytes > buffers_[b].bytes; });
    std::vector<size_t> by_offset;  // placed ones, ascending
    for (const size_t index : order) {
      Buffer& buffer = buffers_[index];
      size_t offset = stash_;
      for (const size_t other : by_offset) {
        const Buffer& placed = buffers_[other];
        if (!together(buffer, placed)) continue;
        if (offset + room(buffer.bytes) <= placed.offset) break;
        offset = std::max(offset, placed.offset + room(placed.bytes));
      }
      buffer.offset = offset;
      const auto at = std::upper_bound(by_offset.begin(), by_offset.end(), offset,
                                       [&](size_t value, size_t other) { return value < buffers_[other].offset; });
      by_offset.insert(at, index);
    }
  }

  /// Every slot of every ring holds a buffer for each of its tensors, in use all the time.
  void list_stash() {
    const int last = static_cast<int>(tape_.nodes.size()) - 1;
    for (const auto& [id, read] : left_to_) {
      const Ring& ring = rings_[static_cast<size_t>(ring_of_[static_cast<size_t>(id)])];
      for (int slot = 0; slot < ring.slots; ++slot)
        buffers_.push_back({in_ring_[static_cast<size_t>(id)] + ring.stride * static_cast<size_t>(slot),
                            bytes_of_tensor(id), 0, last, tape_.at(id).purpose, -1});
    }
  }

  void measure_peak(MemoryPlan& plan) const {
    const size_t nodes = tape_.nodes.size();
    std::vector<std::array<int64_t, kPurposeCount>> change(nodes + 1);
    for (const Buffer& buffer : buffers_) {
      change[static_cast<size_t>(buffer.first)][static_cast<size_t>(buffer.purpose)] +=
          static_cast<int64_t>(buffer.bytes);
      change[static_cast<size_t>(buffer.last) + 1][static_cast<size_t>(buffer.purpose)] -=
          static_cast<int64_t>(buffer.bytes);
    }
    std::array<int64_t, kPurposeCount> now{};
    int64_t most = -1;
    for (size_t i = 0; i < nodes; ++i) {
      int64_t sum = 0;
      for (size_t p = 0; p < kPurposeCount; ++p) sum += now[p] += change[i][p];
      if (sum <= most) continue;
      most = sum;
      for (size_t p = 0; p < kPurposeCount; ++p) plan.at_peak[p] = static_cast<size_t>(now[p]);
    }
  }

  const Tape& tape_;
  const std::vector<int>& done_;
  const MemoryOptions& options_;
  std::vector<int> first_, last_, buffer_of_, scratch_buffer_, ring_of_;
  std::map<TensorId, Part> left_to_;  ///< tensors of the stash and the last part that reads them
  std::vector<size_t> in_ring_;       ///< their offsets
  std::vector<Ring> rings_;
  std::vector<Buffer> buffers_;
  size_t stash_ = 0, sum_ = 0;
};

}  // namespace

MemoryPlan plan_memory(const Tape& tape, const std::vector<size_t>& scratch_bytes, const MemoryOptions& options,
                       const std::vector<int>& done) {
  return MemoryPass(tape, scratch_bytes, done, options).run();
}

void verify(const MemoryPlan& plan) {
  std::vector<Buffer> sorted = plan.buffers;
  std::sort(sorted.begin(), sorted.end(), [](const Buffer& a, const Buffer& b) { return a.offset < b.offset; });
  for (size_t i = 0; i < sorted.size(); ++i) {
    CAPSTAN_CHECK(sorted[i].offset + sorted[i].bytes <= plan.bytes, "a buffer ends beyond the arena");
    for (size_t j = i + 1; j < sorted.size() && sorted[j].offset < sorted[i].offset + sorted[i].bytes; ++j)
      CAPSTAN_CHECK((sorted[i].group != sorted[j].group && sorted[i].group >= 0 && sorted[j].group >= 0) ||
                        sorted[i].first > sorted[j].last || sorted[j].first > sorted[i].last,
                    "buffers at {} and {} overlap while both are alive (nodes {}..{} and {}..{})", sorted[i].offset,
                    sorted[j].offset, sorted[i].first, sorted[i].last, sorted[j].first, sorted[j].last);
  }
}

}  // namespace capstan
