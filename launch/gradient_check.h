#pragma once
// Which ranks' own gradients are not finite: asked after a step whose norm was not finite although every rank's loss
// was. The reduction has mixed all gradients by then, so the caller first repeats the step's microbatches; that costs a
// step, once in a rare while, in place of a pass over the gradients in every step.

#include <vector>

#include "core/training_program.h"

namespace capstan {

/// Collective over `world`. The gradients of this rank, before any reduction, must stand in `training`.
std::vector<int> ranks_with_bad_gradients(const TrainingProgram& training, Communicator& world);

}  // namespace capstan
