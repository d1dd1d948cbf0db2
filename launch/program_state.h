#pragma once
// Between a Program's state and a checkpoint's logical tensors. A rank reads what its placements, or its
// piece of the flat state, say it holds; ranks
// that hold the same elements write an equal part of them each. Padding rows are left out.

#include <string>
#include <vector>

#include "core/training_program.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/save.h"

namespace capstan {

struct StateSlices {
  std::vector<LogicalTensor> tensors;
  std::vector<Slice> slices;  ///< of this rank; they point into the arena
};

StateSlices state_slices(const TrainingProgram& training);
/// The same; rank and ranks are those of the program's mesh.
StateSlices state_slices(const TrainingProgram& training, int rank, int ranks);

/// Fills masters and moments, then the working copies. Collective. Error bad_data when a tensor is missing or has
/// another shape. `weights_only`: the checkpoint holds parameters alone, in any floating type; moments stay 0. Loss
/// scale and count of updates are no tensors: the caller sets them. `between` is called after each tensor, equally
/// often on all ranks, and may throw.
void load_state(TrainingProgram& training, Checkpoint& checkpoint, bool weights_only = false,
                const std::function<void()>& between = {});
/// Fills the parameters alone that this rank holds, cast to `dtype`, into the persistent tensors of their names.
void load_parameters(Program& program, DType dtype, Checkpoint& checkpoint);

}  // namespace capstan
