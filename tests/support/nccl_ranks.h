#pragma once
// NCCL without devices: a rank is a thread with a device of threads of its own (tests/support/thread_device.h), and its
// NCCL groups meet in memory (tests/emulated_cuda/nccl.h).

#include <memory>

#include "nccl.h"
#include "parallel/nccl_session.h"
#include "parallel/rank_threads.h"
#include "tests/support/host_side.h"
#include "tests/support/thread_device.h"

namespace capstan::testing {

inline cudaError_t enqueue_on_thread(cudaStream_t stream, std::function<void()> work) {
  enqueue(static_cast<void*>(stream), std::move(work));
  return cudaSuccess;
}

/// Sets the emulation up for streams that are threads.
inline void nccl_over_threads(double hang_seconds = 30) {
  emulated_nccl::switches() = {enqueue_on_thread, false, hang_seconds, [](cudaStream_t stream) {
                                 return static_cast<ThreadStream*>(static_cast<void*>(stream))->captures();
                               }};
}

inline NcclKernels thread_kernels() { return {thread_copy, thread_reduce_tree}; }

/// One rank: a thread with a device and a session. The group goes before the session, that before the device.
struct NcclRank {
  Communicator& control;
  ThreadDevice& device;
  NcclSession& session;

  std::unique_ptr<Communicator> group() const { return session.group(control, device.main_stream()); }
  std::unique_ptr<HostSide> host_side() const {
    return std::make_unique<HostSide>(device, device.main_stream(), group());
  }
};

struct NcclRanksOptions {
  NcclOptions nccl{};
  ThreadDevice::Options device{};
  RankThreadOptions threads{};
};

inline void run_nccl_ranks(int ranks, const std::function<void(const NcclRank&)>& body, NcclRanksOptions options = {}) {
  run_rank_threads(
      ranks,
      [&](Communicator& control) {
        ThreadDevice::Options device_options = options.device;
        device_options.seed = static_cast<unsigned>(control.rank() + 1);
        ThreadDevice device(device_options);
        NcclSession session(device, thread_kernels(), options.nccl);
        body({control, device, session});
      },
      options.threads);
}

}  // namespace capstan::testing
