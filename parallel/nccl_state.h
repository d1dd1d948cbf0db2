#pragma once
// Inside of the NCCL groups: NcclState is what a session's groups share, NcclHandle owns one communicator of NCCL and
// turns what its calls return into errors that name the op, the rank and what to do. Only nccl_*.cpp include this page.
// Locks: a handle's own is held during a call and by who asks or takes it; the state's is taken first where both are.

#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "parallel/nccl_session.h"

namespace capstan {

class NcclHandle;

/// One call, for messages: "all-reduce of 4096 x f32".
struct NcclCall {
  const char* name = "";
  size_t count = 0;
  const char* unit = "bytes";  ///< or "ranks", or a dtype
  std::string text() const;
};

struct NcclState {
  NcclState(kernels::DeviceRuntime& device, const NcclKernels& kernels, NcclOptions options);
  ~NcclState();

  void add(NcclHandle& handle);
  void remove(NcclHandle& handle) noexcept;
  /// Keeps the first failure, ends the work of all groups, so that nobody waits for the device any more. Comes back in
  /// seconds, also where graphs that hold calls of the groups live on.
  void fail(const std::string& message);
  /// Throws Error(peer_lost) when a group has failed.
  void check() const {
    if (failed.load(std::memory_order_acquire)) throw_failure();
  }
  [[noreturn]] void throw_failure() const;
  std::string failure() const;
  void start_watching();

  kernels::DeviceRuntime& device;
  NcclKernels kernels;
  NcclOptions options;
  std::atomic<size_t> bytes{0};

  struct Memory {
    void* at;
    size_t bytes;
  };
  mutable std::mutex mutex;  ///< of what follows
  std::vector<NcclHandle*> handles;
  std::vector<Memory> memory;  ///< registered

 private:
  void watch();

  std::string message_;  ///< of the first failure
  std::atomic<bool> failed{false};
  std::condition_variable stopping_;
  bool stop_ = false;
  std::thread watcher_;
};

class NcclHandle {
 public:
  /// world_rank: how messages name this rank. registers: knows the session's registered memory.
  NcclHandle(std::shared_ptr<NcclState> state, int rank, int size, int world_rank, bool registers = true);
  ~NcclHandle();
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  /// Collective: the communicator of an id, or of a part of another group's. `part` < 0: this rank is in none.
  void open(const ncclUniqueId& id, const NcclGroupOptions& options);
  void open(NcclHandle& parent, int part, int key, const NcclGroupOptions& options);

  /// Makes one call; `make` gets the communicator and returns NCCL's result. Throws Error.
  template <typename Make>
  void call(const NcclCall& what, Make make) {
    state_->check();
    ncclResult_t result;
    {
      std::unique_lock lock(mutex_);
      call_ = what, ++calls_;
      result = comm_ == nullptr ? ncclInvalidUsage : make(comm_);
      if (result == ncclInProgress) result = settle(lock);
    }
    if (result != ncclSuccess) fail(result);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  int world_rank() const { return world_rank_; }
  NcclState& state() const { return *state_; }
  const std::shared_ptr<NcclState>& shared_state() const { return state_; }
  bool registers() const { return registers_; }

  // Called by the state, with its lock held.
  void enlist(const NcclState::Memory& memory);
  void dismiss(void* memory);
  /// What NCCL found since, as a message; empty: nothing, or a call is under way and will tell.
  std::string ask();
  /// Gives the communicator, or null, to who ends it; the group cannot be used any more.
  ncclComm_t surrender() noexcept;

 private:
  ncclResult_t settle(std::unique_lock<std::timed_mutex>& lock);
  [[noreturn]] void fail(ncclResult_t result);
  std::string describe(ncclResult_t result) const;
  void opened(ncclResult_t result, std::unique_lock<std::timed_mutex>& lock);

  std::shared_ptr<NcclState> state_;
  int rank_, size_, world_rank_;
  bool registers_;
  int exceptions_;  ///< under way when it was made
  std::timed_mutex mutex_;
  ncclComm_t comm_ = nullptr;
  NcclCall call_;  ///< the last
  uint64_t calls_ = 0;
  struct Registered {
    void* at;
    void* handle;
  };
  std::vector<Registered> registered_;
};

/// One call made of several: returns the first result that is an error, else that of ending the group.
template <typename Body>
ncclResult_t nccl_grouped(Body body) {
  const auto bad = [](ncclResult_t r) { return r != ncclSuccess && r != ncclInProgress; };
  const ncclResult_t started = ncclGroupStart();
  if (bad(started)) return started;
  const ncclResult_t inside = body();
  const ncclResult_t ended = ncclGroupEnd();
  return bad(inside) ? inside : ended;
}

/// For bodies of nccl_grouped: the next call is made only while all before it went well.
class NcclResults {
 public:
  template <typename Call>
  void then(Call call) {
    if (result_ == ncclSuccess || result_ == ncclInProgress) result_ = call();
  }
  ncclResult_t value() const { return result_; }

 private:
  ncclResult_t result_ = ncclSuccess;
};

}  // namespace capstan
