#pragma once
// What a rank sends for one collective over n ranks, as the usual (ring) formula counts it, whatever the transport
// really does; so that a plan's bytes on the wire can be checked against a run, and runs on other transports compared.
//   all_reduce 2 (n-1)/n B · reduce_scatter, all_gather, all_to_all (n-1)/n B · broadcast (n-1)/n B
// with B the bytes of the whole array (size * count elements for the middle three); send and shift B, receive and
// barrier 0.

#include <cstddef>

#include "core/communicator.h"

namespace capstan {

class CommunicationCounter {
 public:
  explicit CommunicationCounter(int ranks) : ranks_(static_cast<size_t>(ranks)) {}

  void all_reduce(size_t bytes) { add(2 * bytes * (ranks_ - 1) / ranks_); }
  void one_pass(size_t bytes_per_rank) { add(bytes_per_rank * (ranks_ - 1)); }
  void broadcast(size_t bytes) { add(bytes * (ranks_ - 1) / ranks_); }
  void send(size_t bytes) { add(bytes); }
  void shift(size_t bytes) { add(ranks_ > 1 ? bytes : 0); }
  void nothing() { add(0); }
  void again(const CommunicationCount& count) { count_.calls += count.calls, count_.bytes += count.bytes; }
  CommunicationCount value() const { return count_; }

 private:
  void add(size_t bytes) {
    ++count_.calls;
    count_.bytes += bytes;
  }
  size_t ranks_;
  CommunicationCount count_;
};

}  // namespace capstan
