#include "nccl.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using emulated_nccl::switches;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<char>;

constexpr int kPollsUntilDone = 2;  ///< of a communicator that is not blocking

std::atomic<int> live_communicators{0}, live_registrations{0}, aborted_alone{0};

size_t size_of(ncclDataType_t type) {
  constexpr size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return sizes[type];
}

/// What all ranks of a group must agree on.
struct Signature {
  std::string kind;
  size_t count = 0;
  int type = 0, op = 0, root = -1;
  bool operator==(const Signature&) const = default;
  std::string text() const {
    return kind + " of " + std::to_string(count) + " elements of type " + std::to_string(type) + ", op " +
           std::to_string(op) + ", root " + std::to_string(root);
  }
};

/// One collective: what ranks have brought.
struct Round {
  std::map<int, Bytes> inputs;
  Signature signature;
  int first = 0, finished = 0;
};

struct Message {
  Bytes data;
  bool taken = false;
};

struct Wish {
  int colour, key, rank;
};

/// What the ranks of one communicator share.
struct Group {
  explicit Group(int size) : ranks(size) {}

  /// Ends all waits; the first reason stays.
  void break_with(const std::string& reason) {
    {
      const std::lock_guard lock(mutex);
      if (why.empty()) why = reason;
      broken = true;
    }
    changed.notify_all();
  }
  template <typename Ready>
  bool wait(std::unique_lock<std::mutex>& lock, const std::string& what, Ready ready) {
    const auto most = std::chrono::duration<double>(switches().hang_seconds);
    if (!changed.wait_for(lock, most, [&] { return broken || ready(); })) {
      broken = true;
      if (why.empty()) why = "a rank has waited too long in " + what;
      changed.notify_all();
    }
    return !broken;
  }

  const int ranks;
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  std::atomic<bool> broken{false};
  std::string why;
  std::map<uint64_t, Round> rounds;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> mail;  ///< from, to
  std::set<std::array<int, 3>> connecting;  ///< from, to, whose host has come: it stays there
  std::map<uint64_t, std::vector<Wish>> splits;
  std::map<std::pair<uint64_t, int>, std::shared_ptr<Group>> parts;  ///< of a split, by colour
};

/// One rank's end of a group. Work in streams keeps it alive.
struct End {
  End(std::shared_ptr<Group> its_group, int its_rank, bool is_blocking)
      : group(std::move(its_group)), rank(its_rank), blocking(is_blocking) {}
  std::shared_ptr<Group> group;
  const int rank;
  const bool blocking;
  uint64_t collectives = 0, splits = 0;
  std::atomic<bool> aborted{false};
  const std::shared_ptr<int> in_graphs = std::make_shared<int>();  ///< shared by graphs that hold calls
  // Of a communicator that is not blocking: what the last call has not done yet.
  std::mutex mutex;
  int polls = 0;
  std::function<bool()> pending;  ///< false: not yet
};

ncclResult_t error_of(const Group& group) { return group.broken ? ncclRemoteError : ncclSuccess; }

// ---- arithmetic: in the order of a ring, which differs from chunk to chunk

template <typename T>
struct Number {
  static T load(const char* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(char* p, T v) { std::memcpy(p, &v, sizeof v); }
};
template <>
struct Number<uint16_t> {  // bf16
  static float load(const char* p) {
    uint16_t v;
    std::memcpy(&v, p, sizeof v);
    return std::bit_cast<float>(static_cast<uint32_t>(v) << 16);
  }
  static void store(char* p, float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const auto v = static_cast<uint16_t>(f != f ? 0x7fffu : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    std::memcpy(p, &v, sizeof v);
  }
};

template <typename T>
T both(T a, T b, bool max) {
  if (max) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fmax(a, b);  // drops NaN
    else
      return a > b ? a : b;
  }
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else
    return static_cast<T>(a + b);
}

/// Elements [first, first + count) of the result. Ranks add one after another from the one whose chunk it is.
template <typename T>
void reduce_range(const Round& round, size_t first, size_t count, size_t total, bool max, char* to) {
  std::vector<const char*> inputs;
  for (const auto& [rank, input] : round.inputs) inputs.push_back(input.data());
  const size_t ranks = inputs.size();
  for (size_t i = first; i < first + count; ++i, to += sizeof(T)) {
    const size_t start = i * ranks / total + 1;
    std::memcpy(to, inputs[start % ranks] + i * sizeof(T), sizeof(T));
    for (size_t step = 1; step < ranks; ++step) {
      const char* next = inputs[(start + step) % ranks] + i * sizeof(T);
      Number<T>::store(to, both(Number<T>::load(to), Number<T>::load(next), max));
    }
  }
}

void reduce(const Round& round, size_t first, size_t count, size_t total, char* to) {
  const bool max = round.signature.op == ncclMax;
  switch (round.signature.type) {
    case ncclFloat64:
      return reduce_range<double>(round, first, count, total, max, to);
    case ncclFloat32:
      return reduce_range<float>(round, first, count, total, max, to);
    case ncclBfloat16:
      return reduce_range<uint16_t>(round, first, count, total, max, to);
    case ncclFloat16:
      return reduce_range<_Float16>(round, first, count, total, max, to);
    case ncclInt64:
      return reduce_range<int64_t>(round, first, count, total, max, to);
    default:
      return reduce_range<int32_t>(round, first, count, total, max, to);
  }
}

// ---- calls that wait in a group or in a stream

struct Collective {
  Signature signature;
  const void* in = nullptr;
  void* out = nullptr;
  size_t in_bytes = 0;
};
struct Transfer {
  bool send = false;
  void* data = nullptr;
  size_t bytes = 0;
  int peer = 0;
};
struct Queued {
  std::shared_ptr<End> end;
  cudaStream_t stream = nullptr;
  bool is_transfer = false;
  Collective collective;
  Transfer transfer;
};

void finish(const Round& round, const Collective& call, const End& end) {
  const size_t bytes = call.signature.count * size_of(static_cast<ncclDataType_t>(call.signature.type));
  auto* out = static_cast<char*>(call.out);
  const size_t count = call.signature.count, rank = static_cast<size_t>(end.rank);
  if (call.signature.kind == "all-reduce") return reduce(round, 0, count, count, out);
  if (call.signature.kind == "reduce-scatter")
    return reduce(round, rank * count, count, count * static_cast<size_t>(end.group->ranks), out);
  if (call.signature.kind == "broadcast") {
    const Bytes& sent = round.inputs.at(call.signature.root);
    std::memcpy(out, sent.data(), sent.size());
    return;
  }
  for (const auto& [from, sent] : round.inputs)
    std::memcpy(out + static_cast<size_t>(from) * bytes, sent.data(), bytes);
}

void run_collective(const Collective& call, End& end) {
  Group& group = *end.group;
  std::unique_lock lock(group.mutex);
  if (group.broken || end.aborted) return;
  const uint64_t number = end.collectives++;  // counted when they run: a graph makes one call many times
  Round& round = group.rounds[number];
  if (round.inputs.empty()) round.signature = call.signature, round.first = end.rank;
  if (!(round.signature == call.signature)) {
    const std::string text = "rank " + std::to_string(round.first) + " makes " + round.signature.text() + ", rank " +
                             std::to_string(end.rank) + " makes " + call.signature.text();
    lock.unlock();
    return group.break_with(text);
  }
  const auto* in = static_cast<const char*>(call.in);
  round.inputs[end.rank] = Bytes(in, in + call.in_bytes);
  group.changed.notify_all();
  const auto all = [&] { return static_cast<int>(round.inputs.size()) == group.ranks; };
  if (!group.wait(lock, call.signature.text() + " on rank " + std::to_string(end.rank), all)) return;
  lock.unlock();
  finish(round, call, end);  // nobody changes a round that is complete
  lock.lock();
  if (++round.finished == group.ranks) group.rounds.erase(number);
}

std::shared_ptr<Message> post(const Transfer& transfer, End& end) {
  auto message = std::make_shared<Message>();
  const auto* data = static_cast<const char*>(transfer.data);
  message->data.assign(data, data + transfer.bytes);
  {
    const std::lock_guard lock(end.group->mutex);
    end.group->mail[{end.rank, transfer.peer}].push_back(message);
  }
  end.group->changed.notify_all();
  return message;
}

void receive(const Transfer& transfer, End& end) {
  Group& group = *end.group;
  std::unique_lock lock(group.mutex);
  auto& mail = group.mail[{transfer.peer, end.rank}];
  const std::string what = "a receive of " + std::to_string(transfer.bytes) + " bytes on rank " +
                           std::to_string(end.rank) + " from rank " + std::to_string(transfer.peer);
  if (!group.wait(lock, what, [&] { return !mail.empty(); })) return;
  const std::shared_ptr<Message> message = mail.front();
  mail.pop_front();
  message->taken = true;
  lock.unlock();
  group.changed.notify_all();
  if (message->data.size() != transfer.bytes)
    return group.break_with(what + " finds " + std::to_string(message->data.size()));
  std::memcpy(transfer.data, message->data.data(), transfer.bytes);
}

/// What one group call puts into one stream: sends go out before anything waits.
void run_calls(const std::vector<Queued>& calls) {
  std::vector<std::pair<End*, std::shared_ptr<Message>>> sent;
  for (const Queued& call : calls)
    if (call.is_transfer && call.transfer.send && !call.end->group->broken)
      sent.emplace_back(call.end.get(), post(call.transfer, *call.end));
  for (const Queued& call : calls) {
    if (call.end->group->broken) continue;
    if (!call.is_transfer)
      run_collective(call.collective, *call.end);
    else if (!call.transfer.send)
      receive(call.transfer, *call.end);
  }
  if (switches().buffered_sends) return;
  for (const auto& [end, message] : sent) {
    std::unique_lock lock(end->group->mutex);
    const bool& taken = message->taken;
    end->group->wait(lock, "a send on rank " + std::to_string(end->rank), [&] { return taken; });
  }
}

thread_local int depth = 0;
thread_local std::vector<Queued> grouped;
thread_local std::vector<ncclComm_t> grouped_ends;
thread_local std::string last_error;

ncclResult_t failed(ncclResult_t result, const std::string& why) {
  last_error = why;
  return result;
}

/// The hosts of two ranks meet in the first message from one to the other.
void come_to_connect(const std::vector<Queued>& calls) {
  for (const Queued& call : calls) {
    if (!call.is_transfer) continue;
    const int me = call.end->rank, peer = call.transfer.peer;
    {
      const std::lock_guard lock(call.end->group->mutex);
      call.end->group->connecting.insert({call.transfer.send ? me : peer, call.transfer.send ? peer : me, me});
    }
    call.end->group->changed.notify_all();
  }
}
/// With the lock of the call's group.
bool is_connected(const Queued& call) {
  const int me = call.end->rank, peer = call.transfer.peer;
  return !call.is_transfer ||
         call.end->group->connecting.count({call.transfer.send ? me : peer, call.transfer.send ? peer : me, peer}) > 0;
}
bool are_connected(const std::vector<Queued>& calls) {
  return std::all_of(calls.begin(), calls.end(), [](const Queued& call) {
    const std::lock_guard lock(call.end->group->mutex);
    return call.end->group->broken || is_connected(call);
  });
}
void connect(const std::vector<Queued>& calls) {
  come_to_connect(calls);
  for (const Queued& call : calls) {
    std::unique_lock lock(call.end->group->mutex);
    call.end->group->wait(lock, "the first message between two ranks, on rank " + std::to_string(call.end->rank),
                          [&] { return is_connected(call); });
  }
}

ncclResult_t put_into_streams(std::vector<Queued> calls) {
  std::vector<cudaStream_t> streams;
  for (const Queued& call : calls)
    if (std::find(streams.begin(), streams.end(), call.stream) == streams.end()) streams.push_back(call.stream);
  for (const cudaStream_t stream : streams) {
    std::vector<Queued> mine;
    for (const Queued& call : calls)
      if (call.stream == stream) mine.push_back(call);
    std::vector<std::shared_ptr<int>> held;
    if (switches().captures != nullptr && switches().captures(stream))
      for (const Queued& call : mine) held.push_back(call.end->in_graphs);
    const cudaError_t status = switches().enqueue(stream, [mine = std::move(mine), held] { run_calls(mine); });
    if (status != cudaSuccess) return failed(ncclUnhandledCudaError, "the stream refused the call");
  }
  return ncclSuccess;
}

/// A communicator that is not blocking does it when it is asked for the last time.
ncclResult_t make_calls(std::vector<Queued> calls) {
  if (calls.empty()) return ncclSuccess;
  const std::shared_ptr<End> end = calls.front().end;
  if (end->blocking) {
    connect(calls);
    return put_into_streams(std::move(calls));
  }
  come_to_connect(calls);
  const std::lock_guard lock(end->mutex);
  if (end->pending) return failed(ncclInvalidUsage, "a call is made before the last one has been waited for");
  end->polls = kPollsUntilDone;
  end->pending = [calls = std::move(calls)] { return are_connected(calls) && (put_into_streams(calls), true); };
  return ncclInProgress;
}

}  // namespace

struct ncclComm {
  std::shared_ptr<End> end;
  std::set<void*> registered;
};

namespace {

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
    *error = error_of(*end.group);
    if (*error != ncclSuccess) return last_error = end.group->why, ncclSuccess;
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
const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

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
