#pragma once
// NcclSession: what the NCCL groups of one rank share: its device, the memory registered with NCCL, a watcher that asks
// NCCL for errors which no call returns, and the first failure. Groups are made from a control group (MPI or threads)
// that carries NCCL's id; each is tied to one stream, on which its calls are queued without waiting. Rules: one thread
// makes all calls of a session, in the order that the plan fixes, the same on all ranks (docs/decisions/0012-nccl.md);
// groups speak of device memory, so strings, votes and whatever else the host holds goes through the control group;
// graphs that hold calls of a group go before it, since NCCL waits for them where it ends a group.

#include <functional>
#include <memory>
#include <string>

#include "core/communicator.h"
#include "kernels/copy.h"
#include "kernels/device.h"
#include "kernels/reduce_tree.h"

namespace capstan {

/// What groups do themselves to device memory.
struct NcclKernels {
  void (*copy)(const kernels::CopyArgs&) = nullptr;
  kernels::ReduceTree reduce_tree = nullptr;
};

struct NcclOptions {
  /// Of each stream: for sums in the order of the tree and for maxima of floating numbers. Larger pieces travel faster.
  size_t scratch_bytes = size_t{1} << 20;
  bool blocking = true;      ///< false: NCCL returns at once from making groups and is asked until it is done
  double hang_seconds = 0;   ///< the longest to ask; 0: for ever, the job's watch over hangs ends it
  double watch_seconds = 1;  ///< between two looks of the watcher; 0: nobody looks
  /// Called once by the watcher's thread with what it found, after it has ended all waits for the device.
  std::function<void(const std::string&)> failed{};
};

/// Multiprocessors that one call of a group may hold while it waits for a peer; 0: as many as NCCL likes.
struct NcclGroupOptions {
  int max_ctas = 0;
};

struct NcclState;

class NcclSession {
 public:
  /// The device outlives the session and all its groups.
  NcclSession(kernels::DeviceRuntime& device, const NcclKernels& kernels, NcclOptions options);
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;

  /// Whether this build has NCCL.
  static bool available();
  /// "2.28.9"; empty without NCCL.
  static std::string version();
  /// Throws std::runtime_error where the library is missing or too old to start the calls of several groups in order.
  static void require();

  /// Collective over `control`, which outlives the group: the same ranks as one NCCL group on this stream.
  std::unique_ptr<Communicator> group(Communicator& control, kernels::Stream stream, NcclGroupOptions options = {});
  /// Lets NCCL move this memory without copies of its own, in all groups made so far and from now on. All ranks
  /// register what they use in the same calls. The memory stays until it is forgotten or the groups are gone.
  void register_memory(void* memory, size_t bytes);
  void forget_memory(void* memory);

  /// Device memory that groups and their scratch have taken so far, as the device counts it: a line of the budget. NCCL
  /// takes buffers at the first call of each kind too: warm_up() makes one of each.
  size_t bytes() const;
  /// Collective: a small call of each kind, after which the group takes no more memory; waits for the device.
  /// `exchanges`: also from each rank to each, as all-to-all, ordered sums and maxima go; that takes buffers for each
  /// peer.
  void warm_up(Communicator& group, bool exchanges = true);
  /// What ended this session's groups, or nothing.
  std::string failure() const;

 private:
  std::shared_ptr<NcclState> state_;
};

/// Settings of NCCL and CUDA in the environment, where the user has not set them: groups start in the order in which
/// the host calls them, every stream has a queue of its own, sums are the same in every run. Before anything asks CUDA
/// for its devices, which reads the environment, and before threads start.
void prepare_nccl_environment();

}  // namespace capstan
