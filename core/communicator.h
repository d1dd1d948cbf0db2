#pragma once
// Communicator: what the ranks of one mesh axis (or of the whole job) say to each other. The interface is the same for
// threads as ranks, MPI and NCCL; core/ only knows this page. Counts are elements. Every call is collective over the
// group unless it says otherwise, and is made in the same order by all members. A group of one is the identity.
// When a member fails it calls abort(): every other member's running or next call throws Error(peer_lost).
//
// Order of summation: `fast` is whatever the transport does best but always the same for the same group, so a run
// repeats bitwise; `ordered` is the binary tree over ranks ((0+1)+(2+3))+..., so that 4 ranks of one microbatch each
// sum exactly as one rank that folds its 4 microbatches in the same tree. Sums of bf16 and f16 are formed in f32.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/types.h"

namespace capstan {

enum class Reduction { fast, ordered };
enum class ReduceOp { sum, max };

/// Calls this rank has made and the bytes it has sent in them, as the usual (ring) formula counts them whatever the
/// transport really does (parallel/communicator_count.h); for tests and metrics.
struct CommunicationCount {
  size_t calls = 0;
  size_t bytes = 0;
};

/// A one-way path between two members for messages of one size.
struct ChannelSpec {
  int from = 0, to = 0;
  size_t bytes = 0;
  bool operator==(const ChannelSpec&) const = default;
};

/// Open paths of a group. Messages of a path arrive in order; up to `capacity` of them wait in the path, so that a
/// sender goes on computing while its receiver is behind. Paths are independent: a full one holds up no other.
class Channels {
 public:
  virtual ~Channels() = default;
  /// Copies the message out; waits only while the path is full. Called by its `from`.
  virtual void put(int path, const void* data) = 0;
  /// Waits for the next message. Called by its `to`.
  virtual void take(int path, void* data) = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// data[count] := reduction over ranks, on every rank. f64, f32, bf16, f16, i64, i32. max keeps a NaN of any rank.
  virtual void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) = 0;
  /// in[size * count] -> out[count]: rank r receives the sum of everybody's r-th run. out may be in + rank * count.
  virtual void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) = 0;
  /// in[count] -> out[size * count], in rank order. in may be out + rank * count.
  virtual void all_gather(const void* in, void* out, size_t count, DType dtype) = 0;
  /// Run r of in[size * count] goes to rank r; out holds the runs received in rank order.
  virtual void all_to_all(const void* in, void* out, size_t count, DType dtype) = 0;
  /// Everybody's `in` goes to the rank `distance` further on (round the group; negative: back), and `out` comes from
  /// the one as far behind. They may not overlap.
  virtual void shift(const void* in, void* out, size_t bytes, int distance) = 0;
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  virtual void barrier() = 0;
  /// Point to point, matched in order per pair, of equal length on both sides; blocking: send may wait for the receive.
  virtual void send(const void* data, size_t bytes, int to) = 0;
  virtual void receive(void* data, size_t bytes, int from) = 0;

  /// Collective: opens paths (the same list on all members), on which nothing is allocated any more. The group must
  /// outlive them.
  virtual std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) = 0;

  /// Collective: members that give the same colour (0 or more) form a new group, ordered by key, then rank.
  virtual std::unique_ptr<Communicator> split(int colour, int key) = 0;
  /// Not collective: ends the job or makes every other member throw. `why` is the message the user sees.
  virtual void abort(const std::string& why, int exit_code) = 0;

  virtual CommunicationCount count() const = 0;
  /// Calls that were made before have been made once more by a device's graph, which holds them. Groups whose calls no
  /// graph can hold are never told.
  virtual void count_again(const CommunicationCount&) {}
  /// "threads", "mpi (shared memory)", "mpi", "nccl", "self": for inspect and doctor.
  virtual std::string transport() const = 0;
};

/// The rank `distance` further on in a ring of `ranks`; negative: back.
constexpr int round_the_ring(int rank, int distance, int ranks) { return ((rank + distance) % ranks + ranks) % ranks; }

/// Byte strings of different lengths from every rank, in rank order, on every rank. Collective.
std::vector<std::string> gather_strings(Communicator& group, const std::string& mine);

/// The group of one.
std::unique_ptr<Communicator> self_communicator();

}  // namespace capstan
