#pragma once
// Whether the memory that a run's plan wants is there, asked before any of it is taken: the kernel promises whatever a
// process asks for and ends it minutes later, when it is used. The ranks of a host share its memory, and those of a
// control group its limit, so needs are added up per host and per group over all ranks. What cannot fit is refused on
// all ranks together, once, with the nearest layouts that do: other settings are planned, from the smallest change on,
// exactly as the run would plan them. Rank 0 does so alone, for a limited time, and notes every plan as movement: the
// watch must not take a search for a hang.

#include "core/communicator.h"
#include "core/config/run_config.h"
#include "parallel/flight_recorder.h"

namespace capstan {

/// Bytes of the host's memory that one rank needs.
struct MemoryNeed {
  double plan = 0;     ///< the arena; 0 where it lies on a GPU
  double copy = 0;     ///< of a checkpoint that is written
  double outside = 0;  ///< samples, corpus chunks
  double shared = 0;   ///< its part of the windows of its groups: each divided by the group's ranks, all of one host
};

/// Throws a JointError(config) when some host or group has less than its ranks need. What is found to be left is
/// trusted within a twentieth; train.host_memory_gib, when set, is what a host has instead. Of windows and streams some
/// pages are in use already and gone from what is left, so they count twice: a few MiB a rank, within that twentieth.
/// The recorder is this rank's. Collective.
void require_memory(const RunConfig& config, Communicator& world, FlightRecorder& recorder, const MemoryNeed& own);

}  // namespace capstan
