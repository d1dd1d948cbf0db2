#pragma once
// QueuedReads: what a step leaves in small tensors, for a host that is ahead of its device. queue() puts copies of them
// behind all that is queued so far and returns; take() waits for the oldest copies only, while the device goes on with
// what was queued since. In the host's memory the copies are made at once.
// Rule: at most kMost copies stand at a time; what read() gives is good until the next queue().

#include <array>
#include <string>
#include <vector>

#include "core/program.h"

namespace capstan {

class QueuedReads {
 public:
  static constexpr size_t kMost = 2;

  /// Of these persistent tensors of an allocated program.
  QueuedReads(const Program& program, const std::vector<std::string>& names);
  ~QueuedReads();
  QueuedReads(const QueuedReads&) = delete;
  QueuedReads& operator=(const QueuedReads&) = delete;

  void queue();
  /// Queued and not taken.
  size_t outstanding() const { return queued_ - taken_; }
  void take();
  /// Of what was taken last, tensor `index` of the names.
  template <typename T>
  const T* read(size_t index) const {
    return reinterpret_cast<const T*>(slot(taken_ + kMost - 1).memory + tensors_[index].offset);
  }

 private:
  struct Tensor {
    int persistent = 0;
    size_t offset = 0, bytes = 0;
  };
  struct Slot {
    char* memory = nullptr;
    kernels::Event copied{};
  };
  const Slot& slot(size_t number) const { return slots_[number % kMost]; }

  const Program& program_;
  kernels::DeviceRuntime* device_;
  std::vector<Tensor> tensors_;
  std::array<Slot, kMost> slots_{};
  std::vector<char> memory_;  ///< of a host without device
  size_t queued_ = 0, taken_ = 0;
};

}  // namespace capstan
