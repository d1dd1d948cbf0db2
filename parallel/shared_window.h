#pragma once
// SharedWindow: the memory through which the ranks of one node talk, one rank's view of it. Between threads it is heap
// memory, between processes a mapping of one anonymous file; the same code runs over both, so that what is proved with
// threads holds for processes.
//
// The clever thing is the round. In round r a rank writes into half r % 2 of its own slot, announces "arrived at r",
// waits until all have arrived at r, and then reads the others' slots. One wait per round suffices: whoever writes half
// r % 2 again, in round r + 2, has seen everybody arrive at r + 1, that is, finish reading round r.
// Each rank also writes down which collective call it makes, so that ranks in different calls are told apart instead of
// reading each other's bytes, and a wait without end becomes an Error that says where every rank stands.
//
// Rule: all members enter the same rounds in the same order; one thread per rank uses a window.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/types.h"
#include "parallel/shared_window_wait.h"

namespace capstan {

/// What a rank says about the call it makes: equal on all members for a collective.
struct CallSignature {
  enum Kind : uint8_t {
    all_reduce,
    reduce_scatter,
    all_gather,
    all_to_all,
    broadcast,
    barrier,
    split,
    shift,
    send,
    receive
  };
  Kind kind = barrier;
  DType dtype = DType::u8;
  uint8_t variant = 0;  ///< reduction: operation and order
  int peer = 0;         ///< root of a broadcast; distance of a shift; the other side of a send or receive
  uint64_t count = 0;

  bool operator==(const CallSignature&) const = default;
  std::string describe() const;  ///< "all_reduce of 1000 x f32 (sum, fast)"
};

class SharedWindow {
 public:
  struct Shape {
    int ranks = 1;
    size_t slot_bytes = 0;  ///< of one half of one area of a slot
    size_t cell_bytes = 0;  ///< payload of one cell of a mailbox; two cells per ordered pair of ranks
    size_t bytes() const;   ///< memory the window needs, zeroed before the first use
  };

  /// `memory` is kept alive by the window. world_rank: how messages name this rank.
  SharedWindow(std::shared_ptr<void> memory, Shape shape, int rank, int world_rank, WaitPolicy policy);

  int rank() const { return rank_; }
  const Shape& shape() const { return shape_; }
  const WaitPolicy& policy() const { return policy_; }
  int world_rank(int rank) const;

  // --- collectives: begin, then any number of rounds (at least one), then end
  void begin(const CallSignature& call);
  void begin_round();                              ///< from here this rank may write its own slot
  std::byte* slot(int rank, int area) const;       ///< this round's half of one of the rank's two areas
  std::byte* last_slot(int rank, int area) const;  ///< the same of the round before
  void
  finish_round();  ///< announce, wait for all: now their slots may be read. The first of a call compares signatures
  void end();

  // --- mailboxes, one per ordered pair
  void send(const void* data, size_t bytes, int to);
  void receive(void* data, size_t bytes, int from);

 private:
  struct Line;     // what one rank announces
  struct Mailbox;  // from one rank to another
  Line& line(int rank) const;
  Mailbox& mailbox(int from, int to) const;
  std::byte* cell(int from, int to, uint64_t number) const;
  std::byte* half(int rank, int area, uint64_t round) const;
  void note(const CallSignature& call, bool inside);
  void compare_signatures() const;
  template <typename Ready>
  void wait(Ready ready) const;
  std::string where_everybody_stands(double seconds) const;

  std::shared_ptr<void> memory_;
  Shape shape_;
  int rank_;
  WaitPolicy policy_;
  CallSignature call_;
  uint64_t round_ = 0;        // of this window; arrivals start at 0
  uint64_t collectives_ = 0;  // calls of this group so far: equal on all members
  uint64_t calls_ = 0;        // with sends and receives: this rank's own count
  bool compared_ = false;
};

}  // namespace capstan
