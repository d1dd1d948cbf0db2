// A grid, block after block; the threads of a block are fibers that give way at barriers and warp functions. A round
// runs every thread that can run, warp by warp; when none can and some wait, that is a deadlock, and is told.

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.h"

thread_local constinit uint3 threadIdx = {};
thread_local constinit uint3 blockIdx = {};
thread_local constinit uint3 blockDim = {};
thread_local constinit uint3 gridDim = {};

namespace emulated_cuda {
namespace {

constexpr size_t kMostSharedBytes = 228 * 1024;
constexpr uint64_t kNoValue = ~uint64_t{0};  // NaN in every floating dtype

enum class State { fresh, ready, at_block, at_warp, done };

struct Thread {
  Fiber fiber;
  State state = State::fresh;
  WarpFunction function = WarpFunction::sync;
  BlockFunction block_function = BlockFunction::sync;
  uint32_t mask = 0;
  int argument = 0, width = 32;
  uint64_t value = 0, result = 0;
  uint3 index = {};
};

class Runner {
 public:
  void run(dim3 grid, dim3 block, size_t shared_bytes, const std::string& name, const std::function<void()>& body);
  void give_way();  // called on a fiber
  std::string where() const;

  Thread* current = nullptr;
  char* shared = nullptr;

 private:
  static void enter();
  void resume(Thread& thread);
  void run_block(const std::vector<size_t>& warp_order, bool backwards);
  bool run_warp(size_t warp, bool backwards);
  bool release_warp(size_t warp);
  bool release_block();
  uint64_t answer(size_t warp, size_t lane) const;
  bool meets(size_t warp, size_t lane) const;
  [[noreturn]] void deadlock() const;

  std::vector<Thread> threads_;
  Stacks stacks_;
  std::unique_ptr<Pages> shared_pages_;
  const std::function<void()>* body_ = nullptr;
  std::string name_;
  void* scheduler_ = nullptr;
};

Runner& runner() {
  static thread_local Runner one;
  return one;
}

void Runner::enter() {
  Runner& self = runner();
  (*self.body_)();
  self.current->state = State::done;
  self.give_way();
  __builtin_trap();  // a thread that ended is not resumed
}

void Runner::resume(Thread& thread) {
  if (thread.state == State::fresh) stacks_.lend(thread.fiber, &Runner::enter);
  thread.state = State::ready;
  current = &thread;
  threadIdx = thread.index;
  switch_stack(&scheduler_, thread.fiber.sp);
  current = nullptr;
  if (thread.state == State::done) stacks_.take_back(thread.fiber);
}

void Runner::give_way() { switch_stack(&current->fiber.sp, scheduler_); }

std::string describe(const uint3& v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

std::string Runner::where() const {
  if (current == nullptr) return "";
  return "kernel " + name_ + ", block " + describe(blockIdx) + ", thread " + describe(current->index);
}

void Runner::deadlock() const {
  std::string text = "deadlock in kernel " + name_ + ", block " + describe(blockIdx) + ":";
  std::map<std::string, std::vector<size_t>> groups;
  for (size_t i = 0; i < threads_.size(); ++i) {
    const Thread& t = threads_[i];
    std::string waits = "ended";
    if (t.state == State::at_block) waits = "at __syncthreads";
    if (t.state == State::at_warp) {
      static const char* const names[] = {
          "__syncwarp", "__shfl_sync", "__shfl_up_sync",    "__shfl_down_sync",  "__shfl_xor_sync",  "__ballot_sync",
          "__any_sync", "__all_sync",  "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync"};
      char mask[16];
      std::snprintf(mask, sizeof mask, "%08x", t.mask);
      waits = std::string("at ") + names[static_cast<int>(t.function)] + " with mask " + mask;
    }
    groups[waits].push_back(i);
  }
  for (const auto& [waits, members] : groups) {
    text += " " + std::to_string(members.size()) + " threads " + waits +
            " (the first: " + std::to_string(members.front()) + ");";
  }
  throw Fault(text);
}

/// All living lanes of this lane's mask wait at the same function with the same mask.
bool Runner::meets(size_t warp, size_t lane) const {
  const Thread& t = threads_[warp * 32 + lane];
  if ((t.mask >> lane & 1) == 0) return false;  // a lane that is not in its own mask waits for ever
  for (size_t other = 0; other < 32 && warp * 32 + other < threads_.size(); ++other) {
    if ((t.mask >> other & 1) == 0) continue;
    const Thread& o = threads_[warp * 32 + other];
    if (o.state == State::done) continue;
    if (o.state != State::at_warp || o.function != t.function || o.mask != t.mask) return false;
  }
  return true;
}

uint64_t Runner::answer(size_t warp, size_t lane) const {
  const Thread& t = threads_[warp * 32 + lane];
  const int self = static_cast<int>(lane), first = self & ~(t.width - 1), last = self | (t.width - 1);
  const auto from = [&](int source) {
    const size_t i = warp * 32 + static_cast<size_t>(source);
    const bool there = (t.mask >> source & 1) != 0 && i < threads_.size() && threads_[i].state == State::at_warp;
    return there ? threads_[i].value : kNoValue;
  };
  uint64_t votes = 0, voters = 0, sum = 0, least = ~0u, most = 0;
  switch (t.function) {
    case WarpFunction::sync:
      return 0;
    case WarpFunction::shuffle:
      return from(first + (t.argument & (t.width - 1)));
    case WarpFunction::shuffle_up:
      return from(self - t.argument < first ? self : self - t.argument);
    case WarpFunction::shuffle_down:
      return from(self + t.argument > last ? self : self + t.argument);
    case WarpFunction::shuffle_xor:
      return from((self ^ t.argument) > last ? self : self ^ t.argument);
    default:
      break;
  }
  for (int other = 0; other < 32; ++other) {
    const size_t i = warp * 32 + static_cast<size_t>(other);
    if ((t.mask >> other & 1) == 0 || i >= threads_.size() || threads_[i].state != State::at_warp) continue;
    const uint64_t v = threads_[i].value;
    voters |= 1ull << other;
    if (v != 0) votes |= 1ull << other;
    sum += v, least = std::min(least, v), most = std::max(most, v);
  }
  switch (t.function) {
    case WarpFunction::any:
      return votes != 0;
    case WarpFunction::all:
      return votes == voters;
    case WarpFunction::add:
      return sum & 0xffffffffu;
    case WarpFunction::minimum:
      return least;
    case WarpFunction::maximum:
      return most;
    default:
      return votes;
  }
}

bool Runner::release_warp(size_t warp) {
  uint32_t free = 0;
  for (size_t lane = 0; lane < 32 && warp * 32 + lane < threads_.size(); ++lane) {
    Thread& t = threads_[warp * 32 + lane];
    if (t.state != State::at_warp || !meets(warp, lane)) continue;
    t.result = answer(warp, lane);
    free |= 1u << lane;
  }
  for (size_t lane = 0; lane < 32; ++lane) {
    if (free >> lane & 1) threads_[warp * 32 + lane].state = State::ready;
  }
  return free != 0;
}

/// Runs the lanes of a warp until all of them wait for the block or have ended, or wait for lanes that do not come.
bool Runner::run_warp(size_t warp, bool backwards) {
  bool progress = false;
  const size_t first = warp * 32, count = std::min<size_t>(32, threads_.size() - first);
  do {
    for (size_t k = 0; k < count; ++k) {
      Thread& t = threads_[first + (backwards ? count - 1 - k : k)];
      if (t.state != State::fresh && t.state != State::ready) continue;
      resume(t);
      progress = true;
    }
  } while (release_warp(warp));
  return progress;
}

bool Runner::release_block() {
  const Thread* sample = nullptr;
  int count = 0, living = 0;
  for (const Thread& t : threads_) {
    if (t.state == State::done) continue;
    if (t.state != State::at_block) return false;
    if (sample != nullptr && sample->block_function != t.block_function) return false;
    sample = &t;
    ++living;
    count += t.value != 0;
  }
  for (Thread& t : threads_) {
    if (t.state == State::done) continue;
    t.state = State::ready;
    t.result = t.block_function == BlockFunction::conjunction   ? static_cast<uint64_t>(count == living)
               : t.block_function == BlockFunction::disjunction ? static_cast<uint64_t>(count > 0)
                                                                : static_cast<uint64_t>(count);
  }
  return living > 0;
}

void Runner::run_block(const std::vector<size_t>& warp_order, bool backwards) {
  for (Thread& t : threads_) t.state = State::fresh;
  while (true) {
    for (const size_t warp : warp_order) run_warp(warp, backwards);
    if (release_block()) continue;
    if (std::any_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state != State::done; })) {
      deadlock();
    }
    return;
  }
}

uint64_t product(const dim3& d) { return static_cast<uint64_t>(d.x) * d.y * d.z; }

void put_in_order(std::vector<size_t>& what, Order order, std::mt19937_64& random) {
  std::iota(what.begin(), what.end(), size_t{0});
  if (order == Order::reversed) std::reverse(what.begin(), what.end());
  if (order == Order::shuffled) std::shuffle(what.begin(), what.end(), random);
}

void Runner::run(dim3 grid, dim3 block, size_t shared_bytes, const std::string& name,
                 const std::function<void()>& body) {
  if (current != nullptr || body_ != nullptr) throw Fault("a kernel is launched from inside a kernel");
  threads_.assign(product(block), Thread{});
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i].index = {static_cast<unsigned>(i % block.x), static_cast<unsigned>(i / block.x % block.y),
                         static_cast<unsigned>(i / block.x / block.y)};
  }
  if (!shared_pages_) shared_pages_ = std::make_unique<Pages>((kMostSharedBytes + kPage - 1) / kPage * kPage);
  const size_t rounded = (shared_bytes + 127) / 128 * 128;  // a multiple of the alignment, and then the closed page
  shared = shared_pages_->end() - rounded;
  stacks_.take_all_back();
  body_ = &body;
  name_ = name;
  struct Ended {
    Runner& r;
    ~Ended() { r.body_ = nullptr, r.current = nullptr; }
  } ended{*this};
  const Order order = switches().order;
  std::mt19937_64 random(switches().seed);
  std::vector<size_t> blocks(product(grid)), warps((threads_.size() + 31) / 32);
  put_in_order(blocks, order, random);
  blockDim = {block.x, block.y, block.z};
  gridDim = {grid.x, grid.y, grid.z};
  for (const size_t b : blocks) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    std::memset(shared, 0xff, rounded);
    poison_static_shared();
    put_in_order(warps, order, random);
    run_block(warps, order == Order::reversed || (order == Order::shuffled && random() % 2 == 1));
  }
}

}  // namespace

uint64_t meet_warp(WarpFunction function, uint32_t mask, uint64_t value, int argument, int width) {
  Runner& r = runner();
  if (r.current == nullptr) throw Fault("a warp function is called outside a kernel");
  Thread& t = *r.current;
  t.state = State::at_warp;
  t.function = function, t.mask = mask, t.value = value, t.argument = argument, t.width = width;
  r.give_way();
  return t.result;
}

int meet_block(BlockFunction function, int predicate) {
  Runner& r = runner();
  if (r.current == nullptr) throw Fault("__syncthreads is called outside a kernel");
  Thread& t = *r.current;
  t.state = State::at_block;
  t.block_function = function;
  t.value = predicate != 0;
  r.give_way();
  return static_cast<int>(t.result);
}

char* dynamic_shared_memory() { return runner().shared; }

std::string running_thread() { return runner().where(); }

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::string& name, const std::function<void()>& body) {
  ++switches().kernels_run;
  runner().run(grid, block, shared_bytes, name, body);
}

}  // namespace emulated_cuda
