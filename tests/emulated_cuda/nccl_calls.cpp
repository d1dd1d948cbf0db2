#include "nccl_calls.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace emulated_nccl {
namespace {

thread_local std::string last_error;

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

}  // namespace

ncclResult_t failed(ncclResult_t result, const std::string& why) {
  last_error = why;
  return result;
}

const std::string& last_failure() { return last_error; }

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

}  // namespace emulated_nccl
