#include "launch/training_setup.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/hash.h"
#include "parallel/shared_memory_communicator.h"

namespace capstan {

kernels::Backend backend_for(const TrainConfig& train) {
  return train.device == TrainConfig::Device::reference ? kernels::reference_backend() : kernels::cpu_backend();
}

Precision precision_of(const TrainConfig& train) {
  switch (train.precision) {
    case TrainConfig::Precision::fp64:
      return Precision::fp64;
    case TrainConfig::Precision::bf16:
      return Precision::bf16;
    default:
      return Precision::fp32;
  }
}

namespace {

Recompute recompute_of(const RecomputeConfig& config) {
  switch (config.kind) {
    case RecomputeConfig::Kind::none:
      return {};
    case RecomputeConfig::Kind::selective:
      return {Recompute::Policy::selective};
    case RecomputeConfig::Kind::full:
      return {Recompute::Policy::full};
    case RecomputeConfig::Kind::layers:
      return {Recompute::Policy::full, static_cast<int>(config.layers)};
  }
  return {};
}

}  // namespace

TrainingSpec training_spec(const RunConfig& config, bool training) {
  TrainingSpec spec;
  spec.model = config.model;
  spec.optimizer = {config.optimizer.beta1, config.optimizer.beta2, config.optimizer.epsilon,
                    config.optimizer.weight_decay};
  spec.precision = precision_of(config.train);
  spec.microbatch = config.train.microbatch;
  spec.microbatches = config.accumulation();
  spec.seed = static_cast<uint64_t>(config.train.seed);
  spec.plan.recompute = recompute_of(config.layout.recompute);
  spec.plan.reduction = config.train.reduction;
  spec.sequence_parallel = config.layout.sequence_parallel;
  spec.zero = config.layout.zero;
  spec.training = training;
  spec.separate_documents = config.data.document_mask;
  return spec;
}

int threads_for(const TrainConfig& train, Communicator& world) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return std::max(train.threads, 1);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  std::string mine = host.data();
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed)) mine += fmt::format(",{}", cpu);
  const std::vector<std::string> all = gather_strings(world, mine);
  if (train.threads > 0) return train.threads;
  const int sharing = static_cast<int>(std::count(all.begin(), all.end(), mine));
  return std::max(1, CPU_COUNT(&allowed) / sharing);
}

Mesh mesh_of(const LayoutConfig& layout, int rank) {
  return Mesh({layout.dp, layout.pp, layout.cp, layout.tp, layout.ep}, rank);
}

size_t RankGroups::shared_bytes() const {
  size_t bytes = 0;
  for (const Axis axis : kAllAxes)
    if (const auto* shared = dynamic_cast<const SharedMemoryCommunicator*>(&groups_.of(axis)))
      bytes += shared->memory_bytes();
  return bytes;
}

void require_equal(Communicator& world, const std::string& text, const std::string& what) {
  const std::vector<std::string> digests = gather_strings(world, digest_of(text));
  std::string different;
  for (size_t rank = 1; rank < digests.size(); ++rank)
    if (digests[rank] != digests[0]) different += fmt::format("{}{}", different.empty() ? "" : ", ", rank);
  if (different.empty()) return;
  throw Error::make(ExitCode::config,
                    "the {} of rank {} differs from rank 0's; all ranks must be started by one command, with the same "
                    "binary, files and environment",
                    what, different);
}

}  // namespace capstan
