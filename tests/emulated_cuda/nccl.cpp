#include "nccl.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nccl_calls.h"
#include "nccl_group.h"

using namespace emulated_nccl;

struct ncclComm {
  std::shared_ptr<End> end;
  std::set<void*> registered;
};

namespace {

using Clock = std::chrono::steady_clock;

std::atomic<int> live_communicators{0}, live_registrations{0}, aborted_alone{0};

// Of a group call that has not ended.
thread_local int depth = 0;
thread_local std::vector<Queued> grouped;
thread_local std::vector<ncclComm_t> grouped_ends;

ncclResult_t check_comm(ncclComm_t comm) {
  if (comm == nullptr) return failed(ncclInvalidArgument, "no communicator");
  const std::lock_guard lock(comm->end->group->mutex);
  if (comm->end->group->broken) return failed(ncclRemoteError, comm->end->group->why);
  return ncclSuccess;
}

ncclResult_t add_call(ncclComm_t comm, Queued call) {
  if (const ncclResult_t wrong = check_comm(comm); wrong != ncclSuccess) return wrong;
  call.end = comm->end;
  if (call.is_transfer && (call.transfer.peer < 0 || call.transfer.peer >= comm->end->group->ranks))
    return failed(ncclInvalidArgument, "there is no such peer");
  if (depth > 0) return grouped.push_back(std::move(call)), ncclSuccess;
  return make_calls({std::move(call)});
}

ncclResult_t collective(ncclComm_t comm, cudaStream_t stream, const Signature& signature, const void* in, void* out,
                        size_t in_count) {
  Queued call;
  call.stream = stream;
  call.collective = {signature, in, out, in_count * size_of(static_cast<ncclDataType_t>(signature.type))};
  return add_call(comm, std::move(call));
}

ncclComm_t make_comm(std::shared_ptr<Group> group, int rank, const ncclConfig_t* config) {
  const bool blocking = config == nullptr || config->blocking != 0;
  ++live_communicators;
  return new ncclComm{std::make_shared<End>(std::move(group), rank, blocking), {}};
}

std::mutex ids_mutex;
std::map<std::string, std::weak_ptr<Group>>& groups_by_id() {
  static std::map<std::string, std::weak_ptr<Group>> all;
  return all;
}

/// The part a rank is in once all have said what they want, or nothing yet.
std::shared_ptr<Group> part_of(Group& group, uint64_t number, const Wish& mine, int& rank) {
  const auto found = group.splits.find(number);
  if (found == group.splits.end() || static_cast<int>(found->second.size()) < group.ranks) return nullptr;
  std::vector<Wish> members;
  for (const Wish& wish : found->second)
    if (wish.colour == mine.colour) members.push_back(wish);
  std::sort(members.begin(), members.end(),
            [](const Wish& a, const Wish& b) { return std::pair(a.key, a.rank) < std::pair(b.key, b.rank); });
  for (size_t i = 0; i < members.size(); ++i)
    if (members[i].rank == mine.rank) rank = static_cast<int>(i);
  auto& part = group.parts[{number, mine.colour}];
  if (!part) part = std::make_shared<Group>(static_cast<int>(members.size()));
  return part;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) { return *version = switches().version, ncclSuccess; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<uint64_t> next{1};
  *id = {};
  const uint64_t number = next++;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (rank < 0 || rank >= ranks) return failed(ncclInvalidArgument, "there is no such rank");
  std::shared_ptr<Group> group;
  {
    const std::lock_guard lock(ids_mutex);
    auto& known = groups_by_id()[std::string(id.internal, sizeof id.internal)];
    group = known.lock();
    if (!group) known = group = std::make_shared<Group>(ranks);
  }
  *comm = make_comm(group, rank, config);
  std::unique_lock lock(group->mutex);
  ++group->joined;
  group->changed.notify_all();
  const auto all = [group] { return group->joined >= group->ranks; };
  End& end = *(*comm)->end;
  if (end.blocking)
    return group->wait(lock, "the opening of a group", all) ? ncclSuccess : failed(ncclRemoteError, group->why);
  end.polls = kPollsUntilDone;
  end.pending = [group, all] {
    const std::lock_guard inside(group->mutex);
    return all();
  };
  return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int colour, int key, ncclComm_t* made, ncclConfig_t* config) {
  if (const ncclResult_t wrong = check_comm(comm); wrong != ncclSuccess) return wrong;
  *made = nullptr;
  const std::shared_ptr<Group> group = comm->end->group;
  const uint64_t number = comm->end->splits++;
  const Wish mine{colour, key, comm->end->rank};
  std::unique_lock lock(group->mutex);
  group->splits[number].push_back(mine);
  group->changed.notify_all();
  const ncclConfig_t wanted = config != nullptr ? *config : ncclConfig_t NCCL_CONFIG_INITIALIZER;
  const auto try_to = [=] {
    int rank = 0;
    const std::shared_ptr<Group> part = part_of(*group, number, mine, rank);
    if (part && colour != NCCL_SPLIT_NOCOLOR) *made = make_comm(part, rank, &wanted);
    return part != nullptr;
  };
  if (comm->end->blocking) {
    const auto all = [&] { return static_cast<int>(group->splits[number].size()) == group->ranks; };
    if (!group->wait(lock, "a split", all)) return failed(ncclRemoteError, group->why);
    try_to();
    return ncclSuccess;
  }
  comm->end->polls = kPollsUntilDone;
  comm->end->pending = [=] {
    const std::lock_guard inside(group->mutex);
    return try_to();
  };
  return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) { return check_comm(comm); }

namespace {

/// NCCL waits for ever.
void wait_for_graphs(const End& end) {
  const auto until = Clock::now() + std::chrono::duration<double>(switches().hang_seconds);
  while (end.in_graphs.use_count() > 1) {
    if (Clock::now() > until) {
      std::fprintf(stderr, "the end of a communicator waits for a graph that holds calls of it (rank %d)\n", end.rank);
      std::abort();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclInvalidArgument;
  wait_for_graphs(*comm->end);
  while (switches().graphs != nullptr && *switches().graphs) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  live_registrations -= static_cast<int>(comm->registered.size());
  --live_communicators;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->end->aborted = true;
  comm->end->group->break_with("rank " + std::to_string(comm->end->rank) + " has aborted");
  if (depth > 0) return grouped_ends.push_back(comm), ncclSuccess;
  ++aborted_alone;
  return ncclCommDestroy(comm);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (comm == nullptr) return ncclInvalidArgument;
  End& end = *comm->end;
  {
    const std::lock_guard lock(end.group->mutex);
    *error = end.group->broken ? ncclRemoteError : ncclSuccess;
    if (*error != ncclSuccess) return failed(ncclSuccess, end.group->why);
  }
  const std::lock_guard lock(end.mutex);
  if (!end.pending) return ncclSuccess;
  *error = ncclInProgress;
  if (end.polls-- > 0 || !end.pending()) return ncclSuccess;
  end.pending = nullptr;
  *error = ncclSuccess;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  constexpr const char* texts[] = {"no error",
                                   "unhandled cuda error",
                                   "unhandled system error",
                                   "internal error",
                                   "invalid argument",
                                   "invalid usage",
                                   "remote process exited or there was a network error",
                                   "NCCL operation in progress"};
  return result < ncclNumResults ? texts[result] : "unknown result code";
}
const char* ncclGetLastError(ncclComm_t) { return last_failure().c_str(); }

ncclResult_t ncclCommRegister(ncclComm_t comm, void* memory, size_t, void** handle) {
  comm->registered.insert(memory);
  ++live_registrations;
  return *handle = memory, ncclSuccess;
}
ncclResult_t ncclCommDeregister(ncclComm_t comm, void* handle) {
  if (comm->registered.erase(handle) == 0) return failed(ncclInvalidArgument, "that memory was not registered");
  --live_registrations;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() { return ++depth, ncclSuccess; }

ncclResult_t ncclGroupEnd() {
  if (depth == 0) return failed(ncclInvalidUsage, "a group is ended that was not begun");
  if (--depth > 0) return ncclSuccess;
  for (const ncclComm_t comm : std::exchange(grouped_ends, {})) ncclCommDestroy(comm);
  return make_calls(std::exchange(grouped, {}));
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {"all-reduce", count, type, op}, in, out, count);
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {"reduce-scatter", count, type, op}, in, out,
                    count * static_cast<size_t>(comm->end->group->ranks));
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return collective(comm, stream, {"all-gather", count, type}, in, out, count);
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return collective(comm, stream, {"broadcast", count, type, 0, root}, in, out, comm->end->rank == root ? count : 0);
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int to, ncclComm_t comm,
                      cudaStream_t stream) {
  Queued call;
  call.stream = stream, call.is_transfer = true;
  call.transfer = {true, const_cast<void*>(data), count * size_of(type), to};
  return add_call(comm, std::move(call));
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream) {
  Queued call;
  call.stream = stream, call.is_transfer = true;
  call.transfer = {false, data, count * size_of(type), from};
  return add_call(comm, std::move(call));
}

namespace emulated_nccl {

Switches& switches() {
  static Switches all;
  return all;
}

Alive alive() { return {live_communicators, live_registrations, aborted_alone}; }

}  // namespace emulated_nccl
