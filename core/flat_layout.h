#pragma once
// FlatLayout: where the parameters of a rank lie in its flat buffers of masters, working copies, gradients and moments.
// A buffer is a list of runs. A run holds parameters of one unit (a layer, the embeddings, the head) that are divided
// alike, whose gradients are reduced alike and that all decay or all do not: it is what one collective reduces or
// gathers and one AdamW updates. Units, not the whole model, because then a run is the same on however many stages of a
// pipeline the layers lie, so that sums over its elements have the same bits, and because a unit is what is complete
// first in the backward pass and is needed in one piece in the forward pass.
// All ranks number the runs alike; each gives memory to those that it holds.

#include <cstdint>
#include <vector>

#include "core/parameter.h"

namespace capstan {

/// A run of equal treatment, in elements of this rank.
struct FlatRun {
  int unit = 0;
  bool decay = true;
  bool held = true;         ///< false: another stage of the pipeline has it, and it has no memory here
  int64_t first = 0;        ///< in the buffer
  int64_t count = 0;        ///< with padding
  int64_t used = 0;         ///< elements before the padding that makes the run divide
  Placements placements{};  ///< Shard(0) on the axes that divide its parameters (each in its own dim), else Replicate
  Placements gradients{};   ///< the same but for Partial on the axes over which gradients are still to be summed

  int64_t end() const { return first + count; }
};

struct FlatLayout {
  std::vector<int64_t> first;  ///< of each parameter, in elements; -1 when it is frozen or not held
  std::vector<int> run_of;     ///< of each parameter, or -1 when it is frozen
  std::vector<FlatRun> runs;   ///< of the whole model; those of a unit one after another
  int64_t elements = 0;        ///< of this rank, with padding

  /// A run as a tensor of `dtype`: its shards joined are dim 0.
  static TensorSpec spec(int64_t count, DType dtype, const Placements& placements, const Mesh& mesh);
};

struct FlatOptions {
  std::vector<Placements> gradients;  ///< what backward leaves each gradient in; none: as its parameter is placed
  std::vector<bool> held;             ///< by parameter; none: all
  int parts = 1;  ///< every run divides into so many equal pieces that begin at multiples of 64 bytes
};

FlatLayout flat_layout(const ParameterSet& parameters, DType dtype, const Mesh& mesh = {},
                       const FlatOptions& options = {});

}  // namespace capstan
