#pragma once
// Paths between ranks of one node: a ring of cells in shared memory for each. The sender copies a message into the next
// cell and counts it; the receiver copies it out and counts it; each waits only for the other's count.

#include <memory>
#include <vector>

#include "core/communicator.h"
#include "parallel/communicator_count.h"
#include "parallel/shared_window.h"

namespace capstan {

class SharedChannels final : public Channels {
 public:
  static size_t bytes_for(const std::vector<ChannelSpec>& paths, int capacity);
  /// `memory` is zeroed. The window names ranks and tells how to wait; it and the counter must outlive this object.
  SharedChannels(std::shared_ptr<void> memory, std::vector<ChannelSpec> paths, int capacity, const SharedWindow& window,
                 CommunicationCounter& counter);

  void put(int path, const void* data) override;
  void take(int path, void* data) override;

 private:
  struct Counts;
  Counts& counts(int path) const;
  std::byte* cell(int path, uint64_t message) const;
  template <typename Ready>
  void wait(int path, const char* what, Ready ready) const;

  std::shared_ptr<void> memory_;
  std::vector<ChannelSpec> paths_;
  std::vector<size_t> first_cell_;  ///< of each path, in bytes from the start
  uint64_t capacity_;
  const SharedWindow& window_;
  CommunicationCounter& counter_;
};

}  // namespace capstan
