#pragma once
// A training program told in words and tables: what inspect prints, and what a run's log keeps.

#include <string>

#include "core/training_program.h"

namespace capstan {

/// Bytes by purpose of the persistent tensors and of the transient arena at its fullest moment, and their sums.
std::string memory_table(const Program& program);
/// Ops of a plan added up by part and name: count, GFLOP, MiB moved.
std::string op_table(const Plan& plan);
/// One line a node, with operands.
std::string op_list(const Plan& plan);
/// Collectives of a plan: part, kind, axis, bytes of the tensor and bytes this rank puts on the wire (ring, (n-1)/n).
std::string collective_table(const Plan& plan);
std::string pass_table(const Plan& plan);

}  // namespace capstan
