#pragma once
// Fibers of one OS thread, and the stacks they run on: inside the emulation only. A fiber is started by switching to
// the stack that lend() laid out for it, runs until it switches back, and its stack goes to the next one when it has
// ended. A touch beyond a stack meets a closed page.

#include <cstddef>
#include <memory>
#include <vector>

namespace emulated_cuda {

constexpr size_t kPage = 4096;

/// Pages of this OS thread, closed below and above.
class Pages {
 public:
  explicit Pages(size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  char* end() const { return start_ + bytes_; }

 private:
  char* start_;
  size_t bytes_;
};

/// Where a fiber goes on, and the stack that it was lent.
struct Fiber {
  void* sp = nullptr;
  Pages* stack = nullptr;
};

class Stacks {
 public:
  /// The fiber begins with `enter`, which must not return, when it is first switched to.
  void lend(Fiber& fiber, void (*enter)());
  void take_back(Fiber& fiber) { free_.push_back(fiber.stack); }
  /// All of them are free again, whoever had them.
  void take_all_back();

 private:
  std::vector<std::unique_ptr<Pages>> stacks_;
  std::vector<Pages*> free_;
};

/// Stores where this goes on at *from and goes on where `to` was stored.
void switch_stack(void** from, void* to);

}  // namespace emulated_cuda
