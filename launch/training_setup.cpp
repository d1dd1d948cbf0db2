#include "launch/training_setup.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>

#include "core/error.h"
#include "core/hash.h"
#include "core/schedule_check.h"
#include "io/file_system.h"
#include "kernels/cuda/reduce_tree.h"
#include "launch/joint_error.h"
#include "parallel/shared_memory_communicator.h"
#include "parallel/stream_lane.h"

namespace capstan {

Precision precision_of(const TrainConfig& train) {
  switch (train.precision) {
    case TrainConfig::Precision::fp64:
      return Precision::fp64;
    case TrainConfig::Precision::bf16:
      return Precision::bf16;
    case TrainConfig::Precision::fp16:
      return Precision::fp16;
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

namespace {

std::shared_ptr<const Schedule> schedule_from(const std::string& path, int stages, int64_t microbatches) {
  constexpr uint64_t kMost = uint64_t{64} << 20;
  const auto schedule = std::make_shared<const Schedule>(
      parse_schedule(read_whole_file(path, kMost), stages, static_cast<int>(std::max<int64_t>(microbatches, 1)), path));
  check(*schedule, kPathCapacity);
  return schedule;
}

}  // namespace

TrainingSpec training_spec(const RunConfig& config, bool training) {
  TrainingSpec spec;
  spec.model = config.model;
  spec.optimizer = {config.optimizer.beta1, config.optimizer.beta2, config.optimizer.epsilon,
                    config.optimizer.weight_decay};
  spec.precision = precision_of(config.train);
  spec.loss_scale = {config.train.initial_loss_scale, config.train.minimum_loss_scale, config.train.loss_scale_window};
  spec.microbatch = config.train.microbatch;
  spec.microbatches = config.accumulation();
  spec.seed = static_cast<uint64_t>(config.train.seed);
  spec.plan.recompute = recompute_of(config.layout.recompute);
  spec.plan.reduction = config.train.reduction;
  spec.sequence_parallel = config.layout.sequence_parallel;
  spec.zero = config.layout.zero;
  if (const auto kind = schedule_kind(config.layout.schedule))
    spec.schedule = *kind;
  else if (training)  // a table is for so many microbatches; evaluation has none
    spec.table = schedule_from(config.layout.schedule, config.layout.pp, spec.microbatches);
  spec.interleave = config.layout.interleave;
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
  const int group = layout.shard_group(), replicas = group > 0 ? layout.dp / group : 1;
  return Mesh({group, layout.pp, layout.cp, layout.tp, layout.ep, replicas}, rank);
}

namespace {

/// Over shared memory a collective is work of the processors that compute: nothing is gained beside them.
bool wants_lane(std::initializer_list<const Communicator*> data_groups, Communicator& world,
                LayoutConfig::Overlap overlap) {
  if (overlap != LayoutConfig::Overlap::automatic) return overlap == LayoutConfig::Overlap::on;
  int32_t any = 0;
  for (const Communicator* group : data_groups)
    if (group->size() > 1 && dynamic_cast<const SharedMemoryCommunicator*>(group) == nullptr) any = 1;
  world.all_reduce(&any, 1, DType::i32, ReduceOp::max, Reduction::fast);
  return any != 0;
}

}  // namespace

RankGroups::RankGroups(const Mesh& mesh, Communicator& world, const RankDevice& device, LayoutConfig::Overlap overlap,
                       Reduction order)
    : device_(device), transport_(world.transport()) {
  if (device.runtime() != nullptr && world.size() > 1) {
    open_nccl(mesh, world, overlap, order);
    return;
  }
  groups_ = std::make_unique<const AxisGroups>(mesh, world);
  if (mesh.data_ranks() == 1 || !wants_lane({&groups_->of(Axis::dp), &groups_->of(Axis::rep)}, world, overlap)) return;
  lane_groups_ = std::make_shared<const AxisGroups>(mesh, world, std::initializer_list<Axis>{Axis::dp, Axis::rep});
  lane_ = std::make_unique<LaneThread>(lane_groups_);
}

/// A GPU communicates beside its computation unless it is told not to.
void RankGroups::open_nccl(const Mesh& mesh, Communicator& world, LayoutConfig::Overlap overlap, Reduction order) {
  kernels::DeviceRuntime& runtime = *device_.runtime();
  NcclOptions options;
  options.scratch_bytes = size_t{16} << 20;
  options.failed = [&world](const std::string& why) { world.abort(why, static_cast<int>(ExitCode::peer_lost)); };
  nccl_ = std::make_unique<NcclSession>(runtime, NcclKernels{device_.backend().copy, kernels::cuda::reduce_tree},
                                        std::move(options));
  transport_ = "nccl " + NcclSession::version();
  nccl_world_ = nccl_->group(world, runtime.main_stream());
  groups_ = std::make_unique<const AxisGroups>(mesh, *nccl_world_);
  warm_up(*groups_, order);
  if (mesh.data_ranks() == 1 || overlap == LayoutConfig::Overlap::off) return;
  const kernels::Stream stream = runtime.open_stream();
  nccl_lane_world_ = nccl_->group(world, stream);
  lane_groups_ =
      std::make_shared<const AxisGroups>(mesh, *nccl_lane_world_, std::initializer_list<Axis>{Axis::dp, Axis::rep});
  warm_up(*lane_groups_, order);
  lane_ = std::make_unique<StreamLane>(runtime, stream, runtime.main_stream(), lane_groups_);
}

/// NCCL connects ranks and takes buffers in the first call of a kind: now, while the plan has not taken the memory.
/// Over data parallel ranks, which may be many, fast sums need no buffers for each peer.
void RankGroups::warm_up(const AxisGroups& groups, Reduction order) {
  for (const Axis axis : kAllAxes) {
    const bool exchanges = axis == Axis::tp || axis == Axis::cp || axis == Axis::ep || order == Reduction::ordered;
    nccl_->warm_up(groups.of(axis), exchanges);
  }
  if (Communicator* ends = groups.ends()) nccl_->warm_up(*ends, order == Reduction::ordered);
}

Device RankGroups::device() const {
  Device device{&device_.backend(), groups_->communicators()};
  if (lane_) device.lane = lane_.get(), device.lane_communicators = lane_groups_->communicators();
  device.runtime = device_.runtime();
  device.capture = device_.captures();
  return device;
}

std::shared_ptr<void> RankGroups::use(const Program& program) {
  if (!nccl_) return nullptr;
  nccl_->register_memory(program.memory(), program.memory_bytes());
  return {program.memory(), [this, &program, before = std::uncaught_exceptions()](void* memory) {
            if (std::uncaught_exceptions() > before)
              return;  // a rank that fails ends its groups, and waits for nothing
            try {
              program.finish();
              nccl_->forget_memory(memory);
            } catch (const std::exception&) {  // the device is lost
            }
          }};
}

std::string RankGroups::transport() const { return transport_; }

std::vector<const SharedMemoryCommunicator*> RankGroups::windows() const {
  std::vector<const SharedMemoryCommunicator*> windows;
  for (const AxisGroups* groups : {groups_.get(), lane_groups_.get()})
    for (const Axis axis : kAllAxes)
      if (groups != nullptr)
        if (const auto* shared = dynamic_cast<const SharedMemoryCommunicator*>(&groups->of(axis)))
          windows.push_back(shared);
  return windows;
}

size_t RankGroups::shared_bytes() const {
  size_t bytes = 0;
  for (const SharedMemoryCommunicator* window : windows()) bytes += window->memory_bytes();
  return bytes;
}

double RankGroups::part_of_shared_bytes() const {
  double bytes = 0;
  for (const SharedMemoryCommunicator* window : windows())
    bytes += static_cast<double>(window->memory_bytes()) / window->size();
  return bytes;
}

namespace {

[[noreturn]] void throw_different(const Communicator& world, const std::string& what, const std::string& ranks,
                                  const std::string& than) {
  throw_jointly(world, Error::make(ExitCode::config,
                                   "the {} of rank {} differs from {}; all ranks must be started by one command, with "
                                   "the same binary, files and environment",
                                   what, ranks, than));
}

}  // namespace

std::string agreed_digest(Communicator& world, const Mesh& mesh, const std::string& own) {
  const std::vector<std::string> digests = gather_strings(world, digest_of(own));
  const int stages = mesh.size(Axis::pp), ranks_of_stage = world.size() / stages;  // pp is outermost
  std::string different, all;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::string& first = digests[static_cast<size_t>(rank / ranks_of_stage * ranks_of_stage)];
    if (rank % ranks_of_stage == 0) all += first;
    if (digests[static_cast<size_t>(rank)] != first)
      different += fmt::format("{}{}", different.empty() ? "" : ", ", rank);
  }
  if (!different.empty()) throw_different(world, "plan", different, "that of the first rank of its stage");
  return digest_of(all);
}

void require_equal(Communicator& world, const std::string& text, const std::string& what) {
  const std::vector<std::string> digests = gather_strings(world, digest_of(text));
  std::string different;
  for (size_t rank = 1; rank < digests.size(); ++rank)
    if (digests[rank] != digests[0]) different += fmt::format("{}{}", different.empty() ? "" : ", ", rank);
  if (!different.empty()) throw_different(world, what, different, "rank 0's");
}

}  // namespace capstan
