#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>

#include "emulated_cuda.h"

#ifndef __x86_64__
#error "fibers are switched by code for x86-64"
#endif

// Saves what a call must keep, stores the stack pointer at *from, takes stack `to`.
extern "C" void emulated_cuda_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.globl emulated_cuda_switch
.type emulated_cuda_switch, @function
emulated_cuda_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulated_cuda_switch, .-emulated_cuda_switch
)");

namespace emulated_cuda {

constexpr size_t kStackBytes = 128 * 1024;

Pages::Pages(size_t bytes) : bytes_(bytes) {
  void* all = mmap(nullptr, bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) throw Fault("emulated CUDA: no memory for stacks");
  start_ = static_cast<char*>(all) + kPage;
  mprotect(start_, bytes, PROT_READ | PROT_WRITE);
}

Pages::~Pages() { munmap(start_ - kPage, bytes_ + 2 * kPage); }

void Stacks::lend(Fiber& fiber, void (*enter)()) {
  if (free_.empty()) {
    stacks_.push_back(std::make_unique<Pages>(kStackBytes));
    free_.push_back(stacks_.back().get());
  }
  fiber.stack = free_.back();
  free_.pop_back();
  void** top = reinterpret_cast<void**>(fiber.stack->end()) - 1;
  *top = nullptr;                           // where enter() would return to; keeps the stack aligned as a call does
  *--top = reinterpret_cast<void*>(enter);  // popped by ret
  top -= 6;
  std::fill(top, top + 6, nullptr);
  fiber.sp = top;
}

void Stacks::take_all_back() {
  free_.clear();
  for (const auto& stack : stacks_) free_.push_back(stack.get());
}

void switch_stack(void** from, void* to) { emulated_cuda_switch(from, to); }

}  // namespace emulated_cuda
