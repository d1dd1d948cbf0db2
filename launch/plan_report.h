#pragma once
// A training program told in words and tables: what inspect prints, and what a run's log keeps.

#include <string>
#include <vector>

#include "core/training_program.h"

namespace capstan {

/// Bytes by purpose of the persistent tensors and of the transient arena at its fullest moment, and their sums.
std::string memory_table(const Program& program);
/// Ops of a plan added up by part and name: count, GFLOP, MiB moved.
std::string op_table(const Plan& plan);
/// One line a node, with operands.
std::string op_list(const Plan& plan);
/// What a plan says to other ranks, added up by part and op: calls and bytes this rank puts on the wire (as the ring
/// formula counts them); and over a step of so many microbatches by axis.
std::string collective_table(const Plan& plan, int64_t microbatches);
/// Who has which layers in a pipeline, how many microbatches are under way there, and how long it idles. bytes: of each
/// stage's arena, or none.
std::string stage_table(const TrainingProgram& training, const std::vector<size_t>& bytes);
std::string pass_table(const Plan& plan);

}  // namespace capstan
