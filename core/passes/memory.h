#pragma once
// Memory: gives every transient tensor and every op's scratch an address in one arena. A tensor lives from the node
// that writes it to the last that reads it; tensors that never live at the same time may share bytes, and an output
// takes its input's bytes where the op allows it and nothing reads that input later. Placement: largest first, each at
// the lowest offset free during its whole life (as in "best fit by size" of static arena planners).
// Under a pipeline schedule other microbatches come between the forward and the backward part of one: what one part
// leaves to another (the stash) lies in rings, with as many slots as the schedule has microbatches under way; parts
// that never run at the same time share what remains.

#include <array>
#include <vector>

#include "core/passes/replay_order.h"
#include "core/tape.h"

namespace capstan {

struct MemoryOptions {
  size_t guard = 0;  ///< bytes left after each buffer; tests fill them with a pattern
  bool in_place = true;
  bool reuse = true;  ///< false: every tensor its own bytes (to find wrong lifetimes)
  ReplayOrder order{};
};

/// One run of the transient arena and when it is in use.
struct Buffer {
  size_t offset = 0;
  size_t bytes = 0;
  int first = 0, last = 0;  ///< nodes
  Purpose purpose = Purpose::activation;
  int group = -1;  ///< parts it is used in (ReplayOrder::group); -1: a slot of the stash, always in use
};

/// Tensors that one part leaves to another part of the same microbatch.
struct Ring {
  int chunk = 0;
  Part made = Part::forward, read = Part::backward;
  size_t offset = 0;
  size_t stride = 0;  ///< bytes of one microbatch
  int slots = 1;
};

struct MemoryPlan {
  std::vector<size_t> offset;  ///< of each transient tensor (in slot 0 of its ring); unused for persistent ones
  std::vector<int> ring_of;    ///< of each tensor, or -1
  std::vector<Ring> rings;
  std::vector<size_t> scratch;  ///< of each node
  std::vector<Buffer> buffers;
  size_t bytes = 0;                             ///< size of the transient arena
  size_t sum_of_tensors = 0;                    ///< were nothing shared
  std::array<size_t, kPurposeCount> at_peak{};  ///< bytes by purpose at the node where most is alive
};

/// scratch_bytes: per node. done: per node the one by which it is over; empty: each by itself. Throws Error(internal)
/// when a transient tensor crosses from a replayed part into another.
MemoryPlan plan_memory(const Tape& tape, const std::vector<size_t>& scratch_bytes, const MemoryOptions& options,
                       const std::vector<int>& done = {});

/// No two buffers that are alive at the same time overlap; everything lies inside the arena. Throws Error(internal).
void verify(const MemoryPlan& plan);

}  // namespace capstan
