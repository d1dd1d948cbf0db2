#pragma once
// What the ranks of one communicator of the emulated NCCL share, and each rank's end of it: inside the emulation only.
// Ranks meet under the group's mutex; who waits does so through Group::wait, which ends for all of them when one is too
// late or gives up, with the reason.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nccl.h"

namespace emulated_nccl {

using Bytes = std::vector<char>;

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

size_t size_of(ncclDataType_t type);

/// Elements [first, first + count) of the `total` that the sum or maximum of a round's inputs has. Ranks add one after
/// another as around a ring, in an order that differs from chunk to chunk.
void reduce(const Round& round, size_t first, size_t count, size_t total, char* to);

}  // namespace emulated_nccl
