#pragma once
// Overlap: which ops that communicate run beside the computation, and who waits for them. The recorder and the windows
// mark nodes with `lane`; this pass reads off the operands of all nodes
//   waits     for each node the lane's nodes that touch the same memory: they must be done before it runs;
//   done      for each of the lane's nodes the node of its part that waits for it first, or the last of the part where
//             none does: until then what it holds of the arena is no other's;
//   releases  for lane nodes of the update all of whose operands are persistent (gradients): where in the backward
//             passes their operands have been touched for the last time. They are posted there, in the last replay, and
//             the reduction travels while backward goes on.
// All of it follows from the tape, so ranks that hold equal parts post in equal order. Without a lane the same nodes
// run in place, at the same points.

#include <vector>

#include "core/persistent.h"
#include "core/tape.h"

namespace capstan {

struct OverlapPlan {
  std::vector<std::vector<int>> waits;     ///< by node; ascending
  std::vector<int> done;                   ///< by node
  std::vector<std::vector<int>> releases;  ///< by node: lane nodes of the update that have to wait for it no longer
  std::vector<int> release_count;          ///< by node of the lane: how many nodes release it; 0: posted in its place

  bool early(size_t node) const { return release_count[node] > 0; }
};

OverlapPlan find_overlap(const Tape& tape, const PersistentSpace& space);

}  // namespace capstan
