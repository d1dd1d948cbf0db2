#pragma once
// Plan: a tape whose every op is bound to a backend and whose every tensor has an address. It is what runs, what is
// priced, and what ranks compare: its digest covers ops, operands, placements and addresses. make_plan() runs the
// passes in their fixed order; each has a name, a time and a check after it.

#include <string>
#include <vector>

#include "core/lane.h"
#include "core/passes/memory.h"
#include "core/passes/overlap.h"
#include "core/passes/recompute.h"
#include "core/passes/windows.h"
#include "core/persistent.h"
#include "core/tape.h"
#include "kernels/device.h"

namespace capstan {

struct PlanOptions {
  Recompute recompute;
  MemoryOptions memory;
  Reduction reduction = Reduction::fast;
  std::shared_ptr<const WindowPlan> windows{};  ///< null: all state is whole, or divided once a step
};

/// What ops are bound to.
struct Device {
  const kernels::Backend* backend = nullptr;
  AxisCommunicators communicators;
  Channels* channels = nullptr;  ///< of the plan at hand
  /// Runs what communicates beside the computation, over groups of its own; null: that runs in its place.
  Lane* lane = nullptr;
  AxisCommunicators lane_communicators{};
  /// Of a device with memory of its own; null: plans live in the host's.
  kernels::DeviceRuntime* runtime = nullptr;
  bool capture = true;  ///< runs of nodes are replayed as graphs of the device
};

struct PassTime {
  std::string name;
  double seconds = 0.0;
};

struct Plan {
  std::string name;
  Tape tape;
  std::vector<Bound> bound;           ///< by node
  std::vector<size_t> scratch_bytes;  ///< by node
  OverlapPlan overlap;
  MemoryPlan memory;
  std::vector<PassTime> passes;
  std::string digest;  ///< equal on all ranks of one layout that hold equal parts (with dp alone: on all)

  /// Local cost of node i.
  Cost cost(size_t node) const;
  /// Of node i, which communicates: over which axis, and what this rank sends.
  Wire wire(size_t node) const;
  /// FLOPs of one replay of a part, recomputed ops counted only when `recomputed` is asked for too.
  double flops(Part part, bool recomputed) const;
};

Plan make_plan(const std::string& name, Tape tape, const PersistentSpace& space, const Device& device,
               const PlanOptions& options);

}  // namespace capstan
