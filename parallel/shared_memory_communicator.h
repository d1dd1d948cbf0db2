#pragma once
// The collectives over a SharedWindow, for threads and for processes of one node. Data goes through the ranks' slots in
// chunks: in each round a rank copies in what the others need (past its caches, see shared_window_copy.h), and after
// the round reduces or copies out what is for it. In an all-reduce each rank sums one slice of the chunk from all
// slots; the sums of one chunk travel in the same round as the terms of the next. All sums are formed by reduce_tree,
// so `fast` and `ordered` are the same here. How a group is split and how it ends differs between threads and
// processes: that is left to the subclasses.

#include <string>
#include <vector>

#include "parallel/communicator_count.h"
#include "parallel/communicator_slices.h"
#include "parallel/shared_window.h"

namespace capstan {

class SharedMemoryCommunicator : public Communicator {
 public:
  explicit SharedMemoryCommunicator(SharedWindow window);

  int rank() const override { return window_.rank(); }
  int size() const override { return window_.shape().ranks; }
  void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) override;
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) override;
  void all_gather(const void* in, void* out, size_t count, DType dtype) override;
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override;
  void shift(const void* in, void* out, size_t bytes, int distance) override;
  void broadcast(void* data, size_t bytes, int root) override;
  void barrier() override;
  void send(const void* data, size_t bytes, int to) override;
  void receive(void* data, size_t bytes, int from) override;
  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) override;
  CommunicationCount count() const override { return counter_.value(); }
  /// Of the window, what sums of any length touch: each rank's two halves, as terms of others and as sums of its own.
  size_t memory_bytes() const { return 2 * static_cast<size_t>(size()) * slot_bytes(); }

  /// The sizes of a window for `ranks` ranks. Its memory grows with their square (mailboxes), hence the limit.
  static constexpr int kMostRanks = 512;
  static SharedWindow::Shape shape_for(int ranks);

 protected:
  SharedWindow& window() { return window_; }
  CommunicationCounter& counter() { return counter_; }
  void empty_call(CallSignature::Kind kind);
  /// Collective: zeroed memory that all members share.
  virtual std::shared_ptr<void> share(size_t bytes) = 0;

 private:
  size_t slot_bytes() const { return window_.shape().slot_bytes; }
  void all_reduce_small(std::byte* data, size_t count, DType dtype, ReduceOp op);
  void all_reduce_large(std::byte* data, size_t count, DType dtype, ReduceOp op);
  void stage(const std::byte* data, const Slices& slices);
  void reduce_own(std::byte* data, const Slices& slices, DType dtype, ReduceOp op);
  void collect(std::byte* data, const Slices& slices);
  template <typename Stage, typename Take>
  void in_chunks(size_t bytes, size_t chunk_bytes, Stage stage_chunk, Take take_chunk);

  SharedWindow window_;
  CommunicationCounter counter_;
  std::vector<const void*> inputs_;  // scratch: what reduce_tree adds
};

}  // namespace capstan
