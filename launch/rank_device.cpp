#include "launch/rank_device.h"

#include <stdlib.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "kernels/cuda/cuda_device.h"
#include "launch/joint_error.h"
#include "launch/machine_ceiling.h"
#include "parallel/heartbeat_addresses.h"
#include "parallel/nccl_session.h"

namespace capstan {
namespace {

using DeviceKind = TrainConfig::Device;

/// The least of a number over all ranks.
int least(Communicator& world, int mine) {
  int32_t negative = -mine;
  world.all_reduce(&negative, 1, DType::i32, ReduceOp::max, Reduction::fast);
  return -negative;
}

DeviceKind resolve(const TrainConfig& train, Communicator& world, std::string& note) {
  if (train.device != DeviceKind::automatic) return train.device;
  const int here = kernels::cuda_device_count();
  const int everywhere = least(world, here);
  if (everywhere > 0) return DeviceKind::cuda;
  if (here > 0) note = "some ranks have no GPU: all compute on their hosts";
  if (const std::string trouble = here > 0 ? "" : kernels::cuda_trouble(); !trouble.empty())
    note = "no GPU is used: " + trouble;
  return DeviceKind::cpu;
}

}  // namespace

kernels::Backend planning_backend(const TrainConfig& train) {
  return train.device == DeviceKind::reference ? kernels::reference_backend() : kernels::cpu_backend();
}

bool gpus_on_all(Communicator& world) { return least(world, kernels::cuda_device_count()) > 0; }

TrainConfig for_reading(TrainConfig train, bool gpus) {
  if (train.device == DeviceKind::cuda) train.device = DeviceKind::automatic;
  const bool host = train.device == DeviceKind::cpu || (train.device == DeviceKind::automatic && !gpus);
  if (host && train.precision == TrainConfig::Precision::fp16) train.precision = TrainConfig::Precision::fp32;
  return train;
}

RankDevice::RankDevice(const TrainConfig& train, Communicator& world) : tf32_(train.tf32), captures_(train.capture) {
  const DeviceKind device = resolve(train, world, note_);
  if (device == DeviceKind::cuda) {
    open_gpu(train, world);
    return;
  }
  if (device == DeviceKind::cpu && train.precision == TrainConfig::Precision::fp16)
    throw_jointly(world,
                  Error::make(ExitCode::config,
                              "train.precision = \"fp16\": no rank has a GPU, and the cpu kernels have no fp16; set "
                              "train.precision = \"bf16\", or train.device = \"reference\""));
  backend_ = device == DeviceKind::reference ? kernels::reference_backend() : kernels::cpu_backend();
}

void RankDevice::open_gpu(const TrainConfig& train, Communicator& world) {
  const std::vector<std::string> hosts = gather_strings(world, host_identity());
  const auto before = std::count(hosts.begin(), hosts.begin() + world.rank(), hosts[static_cast<size_t>(world.rank())]);
  first_of_host_ = before == 0;
  std::string failure;
  try {
    const int count = kernels::cuda_device_count();
    runtime_ = kernels::open_cuda_device(count > 0 ? static_cast<int>(before) % count : 0);
    choices_ = std::make_shared<kernels::ProductChoices>(kernels::ProductChoices::default_directory());
    kernels::CudaOptions options;
    options.products.tf32 = train.tf32;
    options.products.choices = choices_;
    backend_ = kernels::cuda_backend(*runtime_, options);
    if (world.size() > 1) NcclSession::require();  // loads it: a rank without it is named here
  } catch (const std::exception& e) {
    failure = e.what();
  }
  const std::vector<std::string> failures = gather_strings(world, failure);  // so that no rank waits for another
  for (size_t rank = 0; rank < failures.size(); ++rank)
    if (!failures[rank].empty())
      throw_jointly(world, Error::make(ExitCode::config, "train.device = \"cuda\" on rank {} ({}): {}", rank,
                                       hosts[rank], failures[rank]));
  share(world, host_identity() + " " + kernels::cuda_device_identity(runtime_->facts().index));
}

/// How many GPUs a rank sees does not tell whether it has one alone: a launcher may show each rank a single one, its
/// own. NCCL refuses ranks of one host that share a GPU; as of several hosts it takes them.
void RankDevice::share(Communicator& world, const std::string& place) {
  const std::vector<std::string> places = gather_strings(world, place);
  const auto turn = std::count(places.begin(), places.begin() + world.rank(), place);
  if (turn > 0) setenv("NCCL_HOSTID", fmt::format("{} {}", host_identity(), turn).c_str(), 0);
  if (std::set<std::string>(places.begin(), places.end()).size() < places.size())
    note_ = "several ranks share one GPU: a rehearsal, not a way to be fast";
}

std::string RankDevice::describe() const {
  if (!runtime_) return fmt::format("{} kernels ({})", backend_.name, backend_.instruction_set);
  const kernels::DeviceFacts facts = runtime_->facts();
  return fmt::format("{} ({}.{}, driver {}), {}", facts.name, facts.major, facts.minor, facts.driver,
                     backend_.instruction_set);
}

void RankDevice::agree_on_products(Communicator& world) {
  if (!choices_) return;
  const std::vector<std::string> all = gather_strings(world, choices_->to_bytes());
  choices_->settle();
  for (const std::string& bytes : all) choices_->take(bytes);
  if (first_of_host_) choices_->save();  // where that fails, the next start times again
}

double RankDevice::published_peak(DType dtype) const {
  if (!runtime_) return 0.0;
  const kernels::DeviceFacts facts = runtime_->facts();
  return dtype != DType::f32 ? facts.peak_bf16 : tf32_ ? facts.peak_tf32 : facts.peak_f32;
}

double RankDevice::product_rate(DType dtype, std::string& source) const {
  if (runtime_) {
    const double peak = published_peak(dtype);
    source = "of the published dense peak";
    if (peak > 0.0) return peak;
    source = fmt::format("of products measured at the start: the peak of {} is not known here", runtime_->facts().name);
    return measure_product_rate(backend_, dtype, 4096, 3, runtime_.get());
  }
  source = "of products measured at the start";
  return measure_product_rate(backend_, dtype, backend_.name == "cpu" ? 512 : 96, 3);
}

}  // namespace capstan
