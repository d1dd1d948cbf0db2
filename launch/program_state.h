#pragma once
// Between a Program's state and a checkpoint's logical tensors. With plain data parallelism every rank holds all of the
// state, so each writes an equal run of every tensor; padding rows are left out.

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

StateSlices state_slices(const TrainingProgram& training, int rank, int ranks);

/// Fills masters and moments, then the working copies. Error bad_data when a tensor is missing or has another shape.
void load_state(TrainingProgram& training, Checkpoint& checkpoint);
/// Fills the parameters alone, cast to `dtype`, into the persistent tensors of their names.
void load_parameters(Program& program, DType dtype, Checkpoint& checkpoint);

}  // namespace capstan
