#pragma once
// From a RunConfig to what the engine is told: backend, threads of this rank, TrainingSpec. Shared by train, evaluate,
// generate, inspect and bench, so that all of them plan the same program.

#include <string>

#include "core/axis_groups.h"
#include "core/config/run_config.h"
#include "core/training_program.h"
#include "launch/rank_device.h"
#include "parallel/lane_thread.h"
#include "parallel/nccl_session.h"

namespace capstan {

class SharedMemoryCommunicator;

TrainingSpec training_spec(const RunConfig& config, bool training);
Precision precision_of(const TrainConfig& train);

/// OpenMP threads of this rank: train.threads, or the processors this rank may use divided by the ranks of this host
/// that may use the same ones. Collective.
int threads_for(const TrainConfig& train, Communicator& world);

/// The mesh of a checked config for one rank.
Mesh mesh_of(const LayoutConfig& layout, int rank);

/// The groups of this rank, one for every axis of more than one rank, over `world` or, for a GPU, over NCCL; and what
/// communicates beside the computation where the layout asks for it: a thread, or a stream. Collective. The device
/// outlives it.
class RankGroups {
 public:
  RankGroups(const Mesh& mesh, Communicator& world, const RankDevice& device,
             LayoutConfig::Overlap overlap = LayoutConfig::Overlap::off, Reduction order = Reduction::fast);
  Device device() const;
  bool beside() const { return lane_ != nullptr; }
  /// "mpi (shared memory)", "nccl 2.28.9".
  std::string transport() const;
  /// Memory through which ranks of this host pass what they sum; it lies outside the plan and is one for all of them.
  size_t shared_bytes() const;
  /// This rank's part of it, so that the parts of all ranks of a host add up to what its groups have together.
  double part_of_shared_bytes() const;
  /// Lets NCCL move what lies in the program's memory, which is allocated, without copies of its own, until the result
  /// is let go of: before the program is, since what NCCL has mapped must not be freed. Collective.
  [[nodiscard]] std::shared_ptr<void> use(const Program& program);
  /// Memory of the GPU that NCCL has taken so far.
  size_t nccl_bytes() const { return nccl_ ? nccl_->bytes() : 0; }

 private:
  void open_nccl(const Mesh& mesh, Communicator& world, LayoutConfig::Overlap overlap, Reduction order);
  void warm_up(const AxisGroups& groups, Reduction order);
  std::vector<const SharedMemoryCommunicator*> windows() const;

  const RankDevice& device_;
  std::string transport_;
  std::unique_ptr<NcclSession> nccl_;
  std::unique_ptr<Communicator> nccl_world_, nccl_lane_world_;
  std::unique_ptr<const AxisGroups> groups_;
  std::shared_ptr<const AxisGroups> lane_groups_;
  std::unique_ptr<Lane> lane_;
};

/// Throws a JointError(config) naming ranks whose plan differs from that of the first rank of their stage; returns the
/// digest of all stages' plans. Collective.
std::string agreed_digest(Communicator& world, const Mesh& mesh, const std::string& own);

/// Throws a JointError(config) naming the ranks whose text differs from rank 0's. Collective.
void require_equal(Communicator& world, const std::string& text, const std::string& what);

}  // namespace capstan
