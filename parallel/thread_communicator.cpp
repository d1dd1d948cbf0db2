#include "parallel/thread_communicator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "parallel/shared_memory_communicator.h"

namespace capstan {
namespace {

/// Zeroed pages that take real memory only where they are touched.
std::shared_ptr<void> zeroed_memory(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error::make(ExitCode::internal, "no memory for a group of threads: wanted {} bytes of address space", bytes);
  return {p, [bytes](void* q) { munmap(q, bytes); }};
}

class ThreadCommunicator final : public SharedMemoryCommunicator {
 public:
  using SharedMemoryCommunicator::SharedMemoryCommunicator;

  std::unique_ptr<Communicator> split(int colour, int key) override;
  void abort(const std::string& why, int) override {
    const int who = window().world_rank(rank());
    if (window().policy().fault) window().policy().fault->raise(fmt::format("rank {} failed: {}", who, why));
  }
  std::string transport() const override { return "threads"; }

 protected:
  std::shared_ptr<void> share(size_t bytes) override;
};

/// The first member makes the memory; the others hold on to it before it may let go.
std::shared_ptr<void> ThreadCommunicator::share(size_t bytes) {
  std::shared_ptr<void> memory;
  if (rank() == 0) memory = zeroed_memory(std::max<size_t>(bytes, 1));
  std::shared_ptr<void>* leader = &memory;
  broadcast(&leader, sizeof leader, 0);
  std::shared_ptr<void> shared = *leader;
  barrier();
  return shared;
}

/// What each member says in a split; memory is where the leader keeps the new group's memory for others to share.
struct SplitWish {
  int64_t colour, key, old_rank;
  std::shared_ptr<void>* memory;
};

/// The members of `colour`, in the order of the new group.
std::vector<SplitWish> members_of(std::vector<SplitWish> wishes, int64_t colour) {
  std::erase_if(wishes, [&](const SplitWish& w) { return w.colour != colour; });
  std::stable_sort(wishes.begin(), wishes.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  return wishes;
}

std::unique_ptr<Communicator> ThreadCommunicator::split(int colour, int key) {
  CAPSTAN_CHECK(colour >= 0, "split with colour {}", colour);
  std::shared_ptr<void> memory;
  std::vector<SplitWish> wishes(static_cast<size_t>(size()));
  const auto exchange = [&] {
    const SplitWish mine{colour, key, rank(), &memory};
    all_gather(&mine, wishes.data(), sizeof mine, DType::u8);
    return members_of(wishes, colour);
  };
  std::vector<SplitWish> members = exchange();
  const int ranks = static_cast<int>(members.size());
  const auto me = std::find_if(members.begin(), members.end(), [&](auto& w) { return w.old_rank == rank(); });
  const auto shape = shape_for(ranks);
  if (me == members.begin()) memory = zeroed_memory(shape.bytes());
  empty_call(CallSignature::split);  // the leaders' memory is there
  std::shared_ptr<void> shared = *members.front().memory;
  const int world = window().world_rank(rank());
  auto group = std::make_unique<ThreadCommunicator>(
      SharedWindow(std::move(shared), shape, static_cast<int>(me - members.begin()), world, window().policy()));
  empty_call(CallSignature::split);  // all have shared it, and all names are written
  return group;
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> thread_communicators(int ranks, WaitPolicy policy) {
  const auto shape = SharedMemoryCommunicator::shape_for(ranks);
  const auto memory = zeroed_memory(shape.bytes());
  std::vector<std::unique_ptr<Communicator>> group;
  for (int r = 0; r < ranks; ++r)
    group.push_back(std::make_unique<ThreadCommunicator>(SharedWindow(memory, shape, r, r, policy)));
  return group;
}

}  // namespace capstan
