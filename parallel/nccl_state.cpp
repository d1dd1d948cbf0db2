#include "parallel/nccl_state.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <system_error>

#include "parallel/quiet_thread.h"

namespace capstan {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kPatienceWithACall = 2s;  ///< of who takes a communicator, with a call that does not come back
constexpr auto kPatienceWithAnEnd = 2s;  ///< with NCCL, to give back what was ended

/// As one group of NCCL, which first tells all communicators to end: one that is ended alone waits for its own work,
/// and that may stand behind another's that waits for a peer. NCCL then waits until no graph holds a call of them; the
/// graphs are the caller's, who goes on, unwinds and frees them. So a thread of its own waits for NCCL.
void end_together(std::vector<ncclComm_t> comms) {
  if (comms.empty()) return;
  std::promise<void> promise;
  const std::future<void> ended = promise.get_future();
  try {
    quiet_thread([comms = std::move(comms), promise = std::move(promise)]() mutable {
      ncclGroupStart();
      for (const ncclComm_t comm : comms) ncclCommAbort(comm);
      ncclGroupEnd();
      promise.set_value();
    }).detach();
    ended.wait_for(kPatienceWithAnEnd);
  } catch (const std::system_error&) {  // no thread to be had: the end of the process ends them
  }
}

const char* nccl_advice(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "a CUDA call inside NCCL failed: NCCL_DEBUG=WARN names it; often the device's memory is full, which "
             "'capstan inspect' shows, or a kernel of an earlier op failed";
    case ncclSystemError:
      return "a call of the operating system failed: NCCL_DEBUG=WARN names it; see that NCCL_SOCKET_IFNAME names an "
             "interface that reaches all nodes, that /dev/shm has room and that 'ulimit -l' is unlimited";
    case ncclInvalidUsage:
      return "often two ranks were given one device (see CUDA_VISIBLE_DEVICES and the ranks a node): NCCL_DEBUG=WARN "
             "tells; to put several ranks on one device in a test give each its own NCCL_HOSTID";
    case ncclRemoteError:
      return "a peer or the network to it is gone: the first rank that reported an error tells why; the job goes on "
             "from its last checkpoint when it is started again";
    default:
      return "NCCL_DEBUG=WARN tells more; report this with its output";
  }
}

}  // namespace

std::string NcclCall::text() const {
  if (count == 0) return name;
  const bool plain = unit == std::string_view("bytes") || unit == std::string_view("ranks");
  return fmt::format("{} of {} {}{}", name, count, plain ? "" : "x ", unit);
}

// ---- what a session's groups share

NcclState::NcclState(kernels::DeviceRuntime& the_device, const NcclKernels& the_kernels, NcclOptions the_options)
    : device(the_device), kernels(the_kernels), options(std::move(the_options)) {}

NcclState::~NcclState() {
  {
    const std::lock_guard lock(mutex);
    stop_ = true;
  }
  stopping_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

void NcclState::start_watching() {
  if (options.watch_seconds <= 0 || watcher_.joinable()) return;
  watcher_ = quiet_thread([this] { watch(); });
}

void NcclState::watch() {
  const std::chrono::duration<double> pause(options.watch_seconds);
  std::unique_lock lock(mutex);
  while (!stopping_.wait_for(lock, pause, [&] { return stop_; })) {
    if (failed.load(std::memory_order_acquire)) return;
    std::string found;
    for (size_t i = 0; i < handles.size() && found.empty(); ++i) found = handles[i]->ask();
    if (found.empty()) continue;
    lock.unlock();
    fail(found);
    if (options.failed) options.failed(failure());
    return;
  }
}

void NcclState::add(NcclHandle& handle) {
  const std::lock_guard lock(mutex);
  handles.push_back(&handle);
  if (handle.registers())
    for (const Memory& m : memory) handle.enlist(m);
}

void NcclState::remove(NcclHandle& handle) noexcept {
  const std::lock_guard lock(mutex);
  std::erase(handles, &handle);
}

/// Without the lock while NCCL ends them: who is told of the failure asks for its reason.
void NcclState::fail(const std::string& message) {
  std::vector<ncclComm_t> comms;
  {
    const std::lock_guard lock(mutex);
    if (failed.load(std::memory_order_acquire)) return;
    message_ = message;
    failed.store(true, std::memory_order_release);
    for (NcclHandle* handle : handles)
      if (const ncclComm_t comm = handle->surrender()) comms.push_back(comm);
  }
  end_together(std::move(comms));
}

std::string NcclState::failure() const {
  const std::lock_guard lock(mutex);
  return message_;
}

void NcclState::throw_failure() const { throw Error(ExitCode::peer_lost, failure()); }

// ---- one communicator

NcclHandle::NcclHandle(std::shared_ptr<NcclState> state, int rank, int size, int world_rank, bool registers)
    : state_(std::move(state)),
      rank_(rank),
      size_(size),
      world_rank_(world_rank),
      registers_(registers),
      exceptions_(std::uncaught_exceptions()) {}

/// A rank that fails does not wait for its peers, which NCCL's orderly end does.
NcclHandle::~NcclHandle() {
  const bool failing = std::uncaught_exceptions() > exceptions_;
  if (failing) state_->fail(fmt::format("rank {} failed", world_rank_));  // ends all groups at once, this one too
  state_->remove(*this);
  std::unique_lock lock(mutex_);
  if (comm_ == nullptr) return;
  if (failing) {  // it had not opened
    end_together({comm_});
    return;
  }
  for (const Registered& r : registered_) ncclCommDeregister(comm_, r.handle);
  if (!state_->options.blocking && ncclCommFinalize(comm_) == ncclInProgress) {
    call_ = {"closing of a group", static_cast<size_t>(size_), "ranks"};
    try {
      settle(lock);
    } catch (const Error&) {  // a peer hangs: the state knows, and has ended this communicator
      return;
    }
  }
  if (comm_ != nullptr) ncclCommDestroy(comm_);
}

void NcclHandle::open(const ncclUniqueId& id, const NcclGroupOptions& options) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = state_->options.blocking ? 1 : 0;
  if (options.max_ctas > 0) config.minCTAs = 1, config.maxCTAs = options.max_ctas;
  state_->check();
  std::unique_lock lock(mutex_);
  call_ = {"opening of a group", static_cast<size_t>(size_), "ranks"};
  opened(ncclCommInitRankConfig(&comm_, size_, id, rank_, &config), lock);
}

void NcclHandle::open(NcclHandle& parent, int part, int key, const NcclGroupOptions& options) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = state_->options.blocking ? 1 : 0;
  if (options.max_ctas > 0) config.minCTAs = 1, config.maxCTAs = options.max_ctas;
  const int colour = part >= 0 ? part : NCCL_SPLIT_NOCOLOR;
  ncclComm_t made = nullptr;
  parent.call({"split", static_cast<size_t>(parent.size()), "ranks"},
              [&](ncclComm_t comm) { return ncclCommSplit(comm, colour, key, &made, &config); });
  std::unique_lock lock(mutex_);
  comm_ = made;
  call_ = {"opening of a part of a group", static_cast<size_t>(size_), "ranks"};
  if (part >= 0) opened(comm_ == nullptr ? ncclInternalError : ncclInProgress, lock);
}

/// Whatever NCCL answered, the communicator is asked whether it is ready.
void NcclHandle::opened(ncclResult_t result, std::unique_lock<std::timed_mutex>& lock) {
  if (result == ncclInProgress) result = settle(lock);
  lock.unlock();
  if (result != ncclSuccess) fail(result);
  state_->add(*this);
}

ncclResult_t NcclHandle::settle(std::unique_lock<std::timed_mutex>& lock) {
  const auto start = SteadyClock::now();
  for (;;) {
    if (comm_ == nullptr) return ncclInvalidUsage;  // aborted meanwhile
    ncclResult_t now = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &now);
    if (asked != ncclSuccess) return asked;
    if (now != ncclInProgress) return now;
    const double waited = std::chrono::duration<double>(SteadyClock::now() - start).count();
    if (state_->options.hang_seconds > 0 && waited > state_->options.hang_seconds) {
      const std::string message = fmt::format(
          "hang: rank {} ({} of {} in its group) has waited {:.1f} s in {} of NCCL: a peer has not made that call",
          world_rank_, rank_, size_, waited, call_.text());
      lock.unlock();
      state_->fail(message);
      throw Error(ExitCode::peer_lost, message);
    }
    lock.unlock();
    std::this_thread::sleep_for(50us);
    lock.lock();
  }
}

std::string NcclHandle::describe(ncclResult_t result) const {
  const char* last = ncclGetLastError(comm_);
  return fmt::format("NCCL: rank {} ({} of {} in its group), {} (call {}): {}{}; {}", world_rank_, rank_, size_,
                     call_.text(), calls_, ncclGetErrorString(result),
                     last != nullptr && *last != '\0' ? fmt::format(" ({})", last) : "", nccl_advice(result));
}

/// Where another thread has ended this session, its reason is what counts.
void NcclHandle::fail(ncclResult_t result) {
  state_->check();
  std::string message;
  {
    const std::unique_lock lock(mutex_);
    message = describe(result);
  }
  state_->fail(message);
  const bool peer = result == ncclRemoteError || result == ncclSystemError;
  throw Error(peer ? ExitCode::peer_lost : ExitCode::internal, message);
}

/// NCCL refuses memory that its transports cannot reach themselves; its calls then copy as they do without.
void NcclHandle::enlist(const NcclState::Memory& memory) {
  const std::unique_lock lock(mutex_);
  void* handle = nullptr;
  if (comm_ != nullptr && ncclCommRegister(comm_, memory.at, memory.bytes, &handle) == ncclSuccess && handle != nullptr)
    registered_.push_back({memory.at, handle});
}

void NcclHandle::dismiss(void* memory) {
  const std::unique_lock lock(mutex_);
  for (const Registered& r : registered_)
    if (r.at == memory && comm_ != nullptr) ncclCommDeregister(comm_, r.handle);
  std::erase_if(registered_, [&](const Registered& r) { return r.at == memory; });
}

std::string NcclHandle::ask() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || comm_ == nullptr) return {};
  ncclResult_t found = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &found);
  if (asked != ncclSuccess) found = asked;
  return found == ncclSuccess || found == ncclInProgress ? "" : describe(found) + " (found after that call)";
}

/// A call that hangs inside NCCL holds the lock; it is ended all the same.
ncclComm_t NcclHandle::surrender() noexcept {
  std::unique_lock lock(mutex_, std::defer_lock);
  static_cast<void>(lock.try_lock_for(kPatienceWithACall));
  registered_.clear();
  return std::exchange(comm_, nullptr);
}

}  // namespace capstan
