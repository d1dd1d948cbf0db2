#pragma once
// Ranks as threads of one process: a SharedMemoryCommunicator over heap memory, and a GroupFault shared by the whole
// job, so that a rank that fails ends the waits of all others, in every group they were split into.

#include <memory>
#include <vector>

#include "core/communicator.h"
#include "parallel/shared_window_wait.h"

namespace capstan {

/// The communicators of a group of `ranks` threads, by rank; each is then used by one thread only.
std::vector<std::unique_ptr<Communicator>> thread_communicators(int ranks, WaitPolicy policy);

}  // namespace capstan
