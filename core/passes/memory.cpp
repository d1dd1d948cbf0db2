#include "core/passes/memory.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/persistent.h"

namespace capstan {
namespace {

class MemoryPass {
 public:
  MemoryPass(const Tape& tape, const std::vector<size_t>& scratch, const MemoryOptions& options)
      : tape_(tape), options_(options), buffer_of_(tape.tensors.size(), -1) {
    find_lifetimes();
    make_buffers(scratch);
  }

  MemoryPlan run() {
    place();
    MemoryPlan plan;
    plan.offset.assign(tape_.tensors.size(), 0);
    for (size_t id = 0; id < tape_.tensors.size(); ++id)
      if (buffer_of_[id] >= 0) plan.offset[id] = buffers_[static_cast<size_t>(buffer_of_[id])].offset;
    for (const int buffer : scratch_buffer_)
      plan.scratch.push_back(buffer < 0 ? 0 : buffers_[static_cast<size_t>(buffer)].offset);
    for (const Buffer& buffer : buffers_) plan.bytes = std::max(plan.bytes, buffer.offset + room(buffer.bytes));
    plan.sum_of_tensors = sum_;
    measure_peak(plan);
    plan.buffers = buffers_;
    return plan;
  }

 private:
  bool transient(TensorId id) const { return id != kNoTensor && tape_.at(id).persistent < 0; }
  size_t bytes_of_tensor(TensorId id) const {
    const TensorSpec& spec = tape_.at(id).spec;
    return static_cast<size_t>(element_count(local_shape(spec, tape_.mesh))) * bytes_of(spec.dtype);
  }
  size_t room(size_t bytes) const { return aligned(bytes) + aligned(options_.guard); }

  void find_lifetimes() {
    first_.assign(tape_.tensors.size(), -1);
    last_.assign(tape_.tensors.size(), -1);
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i) {
      const Node& node = tape_.nodes[static_cast<size_t>(i)];
      for (const auto* list : {&node.inputs, &node.outputs})
        for (const TensorId id : *list) {
          if (!transient(id)) continue;
          int& first = first_[static_cast<size_t>(id)];
          if (first < 0) first = i;
          last_[static_cast<size_t>(id)] = i;
          CAPSTAN_CHECK(group_of(tape_.nodes[static_cast<size_t>(first)].part) == group_of(node.part),
                        "{} is made in part {} and read in part {}", tape_.at(id).name,
                        name_of(tape_.nodes[static_cast<size_t>(first)].part), name_of(node.part));
        }
    }
  }

  /// Forward and backward are replayed together per microbatch; every other part stands alone.
  static int group_of(Part part) {
    return part == Part::backward ? static_cast<int>(Part::forward) : static_cast<int>(part);
  }

  void make_buffers(const std::vector<size_t>& scratch) {
    scratch_buffer_.assign(tape_.nodes.size(), -1);
    for (int i = 0; i < static_cast<int>(tape_.nodes.size()); ++i) {
      const Node& node = tape_.nodes[static_cast<size_t>(i)];
      if (options_.in_place) share_with_inputs(node, i);
      for (const TensorId id : node.outputs)
        if (transient(id) && buffer_of_[static_cast<size_t>(id)] < 0) {
          buffer_of_[static_cast<size_t>(id)] = static_cast<int>(buffers_.size());
          buffers_.push_back({0, bytes_of_tensor(id), i, last_[static_cast<size_t>(id)], tape_.at(id).purpose});
        }
      for (const TensorId id : node.outputs) sum_ += transient(id) ? aligned(bytes_of_tensor(id)) : 0;
      if (scratch[static_cast<size_t>(i)] > 0) {
        scratch_buffer_[static_cast<size_t>(i)] = static_cast<int>(buffers_.size());
        buffers_.push_back({0, scratch[static_cast<size_t>(i)], i, i, Purpose::scratch});
      }
    }
  }

  void share_with_inputs(const Node& node, int i) {
    std::vector<int> taken;
    for (const InPlace& pair : node.op->in_place()) {
      const TensorId out = node.outputs[static_cast<size_t>(pair.output)],
                     in = node.inputs[static_cast<size_t>(pair.input)];
      if (!transient(out) || !transient(in) || buffer_of_[static_cast<size_t>(out)] >= 0) continue;
      // An op that reads one tensor as two operands would find the second one written over.
      if (last_[static_cast<size_t>(in)] != i || std::count(node.inputs.begin(), node.inputs.end(), in) > 1) continue;
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
    return !options_.reuse || (a.first <= b.last && b.first <= a.last);
  }

  void place() {
    std::vector<size_t> order(buffers_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return buffers_[a].bytes > buffers_[b].bytes; });
    std::vector<size_t> by_offset;  // placed ones, ascending
    for (const size_t index : order) {
      Buffer& buffer = buffers_[index];
      size_t offset = 0;
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
  const MemoryOptions& options_;
  std::vector<int> first_, last_, buffer_of_, scratch_buffer_;
  std::vector<Buffer> buffers_;
  size_t sum_ = 0;
};

}  // namespace

MemoryPlan plan_memory(const Tape& tape, const std::vector<size_t>& scratch_bytes, const MemoryOptions& options) {
  return MemoryPass(tape, scratch_bytes, options).run();
}

void verify(const MemoryPlan& plan) {
  std::vector<Buffer> sorted = plan.buffers;
  std::sort(sorted.begin(), sorted.end(), [](const Buffer& a, const Buffer& b) { return a.offset < b.offset; });
  for (size_t i = 0; i < sorted.size(); ++i) {
    CAPSTAN_CHECK(sorted[i].offset + sorted[i].bytes <= plan.bytes, "a buffer ends beyond the arena");
    for (size_t j = i + 1; j < sorted.size() && sorted[j].offset < sorted[i].offset + sorted[i].bytes; ++j)
      CAPSTAN_CHECK(sorted[i].first > sorted[j].last || sorted[j].first > sorted[i].last,
                    "buffers at {} and {} overlap while both are alive (nodes {}..{} and {}..{})", sorted[i].offset,
                    sorted[j].offset, sorted[i].first, sorted[i].last, sorted[j].first, sorted[j].last);
  }
}

}  // namespace capstan
