#pragma once
// Whether the memory that a run's plan wants is there, asked before any of it is taken: the kernel promises whatever a
// process asks for and ends it minutes later, when it is used. The ranks of a host share its memory, and those of a
// control group its limit, so needs are added up per host and per group over all ranks. What cannot fit is refused on
// all ranks together, once, with the nearest layouts that do: other settings are planned, from the smallest change on,
// exactly as the run would plan them.

#include "core/communicator.h"
#include "core/config/run_config.h"

namespace capstan {

/// Bytes of the host's memory that one rank needs.
struct MemoryNeed {
  double plan = 0;     ///< the arena; 0 where it lies on a GPU
  double copy = 0;     ///< of a checkpoint that is written
  double outside = 0;  ///< samples, corpus chunks
  double shared = 0;   ///< once for all ranks of the host
};

/// Throws a JointError(config) when some host or group has less than its ranks need. What is found to be left is
/// trusted within a twentieth; train.host_memory_gib, when set, is what a host has instead. Collective.
void require_memory(const RunConfig& config, Communicator& world, const MemoryNeed& own);

}  // namespace capstan
