#include "parallel/nccl_session.h"

#include <stdlib.h>

#include <algorithm>
#include <stdexcept>

#include "parallel/nccl_communicator.h"

namespace capstan {

NcclSession::NcclSession(kernels::DeviceRuntime& device, const NcclKernels& kernels, NcclOptions options)
    : state_(std::make_shared<NcclState>(device, kernels, std::move(options))) {
  state_->start_watching();
}

NcclSession::~NcclSession() = default;

bool NcclSession::available() { return true; }

std::string NcclSession::version() {
  int code = 0;
  if (ncclGetVersion(&code) != ncclSuccess) return "unknown";
  return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

void NcclSession::require() {
  constexpr int kOldest = NCCL_VERSION(2, 26, 0);  // has NCCL_LAUNCH_ORDER_IMPLICIT
  int code = 0;
  const ncclResult_t result = ncclGetVersion(&code);
  if (result == ncclSuccess && code >= kOldest) return;
  throw std::runtime_error(fmt::format(
      "NCCL {} was found, 2.26 or newer is needed: older ones start the calls of several groups in any "
      "order, and then ranks may wait for each other for ever; see which libnccl.so.2 LD_LIBRARY_PATH names",
      version()));
}

std::unique_ptr<Communicator> NcclSession::group(Communicator& control, kernels::Stream stream,
                                                 NcclGroupOptions options) {
  const size_t free_before = state_->device.facts().free_bytes;
  auto handle = std::make_unique<NcclHandle>(state_, control.rank(), control.size(), control.rank());
  struct Invitation {
    ncclUniqueId id;
    int32_t result;
  } invitation{};
  if (control.rank() == 0 && control.size() > 1) invitation.result = ncclGetUniqueId(&invitation.id);
  control.broadcast(&invitation, sizeof invitation, 0);
  if (invitation.result != ncclSuccess)
    throw Error::make(ExitCode::peer_lost,
                      "NCCL: rank 0 could not begin a group: {}; see that NCCL_SOCKET_IFNAME, where it is set, names "
                      "an interface of its node; NCCL_DEBUG=WARN tells more",
                      ncclGetErrorString(static_cast<ncclResult_t>(invitation.result)));
  if (control.size() > 1) handle->open(invitation.id, options);
  const size_t free_after = state_->device.facts().free_bytes;
  state_->bytes += free_before - std::min(free_before, free_after);
  auto shared = std::make_shared<NcclStream>(state_, stream, options);
  return std::make_unique<NcclCommunicator>(std::move(shared), std::move(handle), control, nullptr);
}

void NcclSession::register_memory(void* memory, size_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->memory.push_back({memory, bytes});
  for (NcclHandle* handle : state_->handles)
    if (handle->registers()) handle->enlist(state_->memory.back());
}

void NcclSession::forget_memory(void* memory) {
  const std::lock_guard lock(state_->mutex);
  std::erase_if(state_->memory, [&](const NcclState::Memory& m) { return m.at == memory; });
  for (NcclHandle* handle : state_->handles) handle->dismiss(memory);
}

size_t NcclSession::bytes() const { return state_->bytes; }

void NcclSession::warm_up(Communicator& group, bool exchanges) {
  auto* nccl = dynamic_cast<NcclCommunicator*>(&group);
  if (nccl == nullptr || group.size() == 1) return;
  const size_t free_before = state_->device.facts().free_bytes;
  const size_t ranks = static_cast<size_t>(group.size()), count = 1024;
  void* memory = state_->device.allocate(2 * ranks * count * 4);
  const std::shared_ptr<void> owned(memory, [this](void* p) { state_->device.release(p); });
  float* in = static_cast<float*>(memory);
  float* out = in + ranks * count;
  group.all_reduce(in, count, DType::f32, ReduceOp::sum, Reduction::fast);
  group.reduce_scatter(in, out, count, DType::f32, Reduction::fast);
  group.all_gather(in, out, count, DType::f32);
  group.broadcast(in, count * 4, 0);
  if (exchanges) group.all_to_all(in, out, count, DType::f32);
  state_->device.finish(nccl->stream());
  const size_t free_after = state_->device.facts().free_bytes + 2 * ranks * count * 4;
  state_->bytes += free_before - std::min(free_before, free_after);
}

std::string NcclSession::failure() const { return state_->failure(); }

void prepare_nccl_environment() {
  constexpr int kKeep = 0;  // what the user has set stays
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", kKeep);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", kKeep);
  if (getenv("NCCL_ALGO") == nullptr) setenv("NCCL_NVLS_ENABLE", "0", kKeep);
}

}  // namespace capstan
