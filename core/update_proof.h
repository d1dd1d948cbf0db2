#pragma once
// What is proved of one stage's plan about who owns state: every conversion does what its ends say, over the axis on
// which they differ; and every run of parameters that the stage holds is updated exactly once a step, by a gradient
// with no sum owed on any axis, in pieces that the ranks of dp hold without gap or overlap and that are the same on all
// replicas. So every element has one owner in each replica.

#include "core/flat_layout.h"
#include "core/tape.h"

namespace capstan {

/// Among how many ranks of dp state is divided, and how many groups hold all of it.
struct Ownership {
  int shards = 1, replicas = 1;
};

/// Throws Error(internal) naming stage and op of the first fault.
void prove_conversions(const Tape& tape, size_t stage);
Ownership prove_updates(const Tape& tape, const FlatLayout& layout, size_t stage);

}  // namespace capstan
