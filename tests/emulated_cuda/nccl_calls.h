#pragma once
// Calls of the emulated NCCL between the moment they are made and the moment a stream runs them: inside the emulation
// only. Those of one group call go into each stream as one piece of work, sends before anything that waits.

#include <memory>
#include <string>
#include <vector>

#include "nccl_group.h"

namespace emulated_nccl {

struct Collective {
  Signature signature;
  const void* in = nullptr;
  void* out = nullptr;
  size_t in_bytes = 0;
};
struct Transfer {
  bool send = false;
  void* data = nullptr;
  size_t bytes = 0;
  int peer = 0;
};
struct Queued {
  std::shared_ptr<End> end;
  cudaStream_t stream = nullptr;
  bool is_transfer = false;
  Collective collective;
  Transfer transfer;
};

/// Puts calls into their streams, after the hosts of ranks that message each other for the first time have met. A
/// communicator that is not blocking does it when it is asked for the last time (End::pending).
ncclResult_t make_calls(std::vector<Queued> calls);

/// Remembers why for ncclGetLastError on this thread, and returns the result.
ncclResult_t failed(ncclResult_t result, const std::string& why);
const std::string& last_failure();

constexpr int kPollsUntilDone = 2;  ///< of a communicator that is not blocking

}  // namespace emulated_nccl
