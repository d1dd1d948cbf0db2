#pragma once
// Cut: makes the tape of one stage of a pipeline out of the tape of the whole model. Nodes of other stages' chunks go;
// every tensor that a chunk makes and another reads becomes a send on the one side and a receive on the other. What
// crosses is found, not listed, and found alike on all stages, so that both sides name a path by the same number.
// Weight gradients become a part of their own where the schedule plays them apart.

#include <vector>

#include "core/schedule.h"
#include "core/tape.h"

namespace capstan {

/// The part of a pipeline that this rank is, and what it is told about the rest.
struct StageView {
  int stage = 0, stages = 1;
  bool splits_weights = false;

  bool holds(int chunk) const { return chunk % stages == stage; }
};

/// Whether this node of the backward pass makes nothing but gradients of parameters: what a schedule may play apart.
bool makes_only_gradients(const Tape& tape, const Node& node);

/// The paths between stages, in the order of their numbers: the same list on all stages.
std::vector<ChannelSpec> cut(Tape& tape, const StageView& view);

}  // namespace capstan
