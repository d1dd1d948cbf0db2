#pragma once
// What is proved of a job over all its ranks before it starts, from the plans of one rank of each stage (the ranks of a
// stage have the same plan: they compare digests). A job that passes has: on every stage the same paths, each with one
// sender and one receiver of the same tensor; sends, receives and collectives between stages that meet in the order in
// which the schedule brings them, without standing still; every parameter on exactly the stages that read it, its
// shards and pieces without gap or overlap, every layer somewhere; every run of state owned once in each replica
// (core/update_proof.h).

#include <string>
#include <vector>

#include "core/flat_layout.h"
#include "core/program.h"
#include "core/schedule.h"
#include "core/update_proof.h"

namespace capstan {

class TrainingProgram;

/// One stage as the proof sees it. Everything is borrowed; tests hand in changed copies.
struct StageProof {
  const Tape* tape = nullptr;  ///< of plan train
  const Schedule* schedule = nullptr;
  const FlatLayout* layout = nullptr;
  const ParameterSet* parameters = nullptr;
  std::vector<ChannelSpec> paths;
  std::vector<bool> holds;  ///< by parameter
};

/// What a stage of a training program hands in.
StageProof proof_of(const TrainingProgram& training);

/// What was counted on the way, for a report.
struct JobProof {
  size_t paths = 0, messages = 0, collectives = 0, parameters = 0;
  Ownership ownership;
};

/// Throws Error(internal) naming stage and op (or parameter) of the first fault.
JobProof prove(const std::vector<StageProof>& stages);

}  // namespace capstan
