#pragma once
// NcclCommunicator: a group over device memory. Every call is queued on the group's stream and returns; the host waits
// nowhere. Fast sums are NCCL's own: bf16 and f16 are rounded at every hop, f32 adds in the order of its ring or tree.
// Ordered sums and maxima of floating numbers are formed by us, since NCCL's maximum drops NaN: every rank gets
// everyone's run of a piece, folds them in the tree on the device (kernels/reduce_tree.h), and sums are gathered again;
// as many bytes travel as in a ring. The groups that are split from one share its stream and therefore its scratch. A
// group of one makes no NCCL call.

#include <memory>

#include "parallel/communicator_count.h"
#include "parallel/nccl_state.h"

namespace capstan {

/// A stream, what its groups share of it, and how many multiprocessors they may hold.
struct NcclStream {
  NcclStream(std::shared_ptr<NcclState> state, kernels::Stream stream, NcclGroupOptions options);
  ~NcclStream();
  NcclStream(const NcclStream&) = delete;
  NcclStream& operator=(const NcclStream&) = delete;

  std::shared_ptr<NcclState> state;
  kernels::Stream stream;
  NcclGroupOptions options;
  char* scratch = nullptr;  ///< options.scratch_bytes of the session
  void* flag = nullptr;     ///< one i32, for barriers
};

class NcclCommunicator final : public Communicator {
 public:
  /// `control` holds the same ranks; owned where it was split off for this group.
  NcclCommunicator(std::shared_ptr<NcclStream> stream, std::unique_ptr<NcclHandle> handle, Communicator& control,
                   std::unique_ptr<Communicator> owned_control);

  int rank() const override { return handle_->rank(); }
  int size() const override { return handle_->size(); }
  void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) override;
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) override;
  void all_gather(const void* in, void* out, size_t count, DType dtype) override;
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override;
  void shift(const void* in, void* out, size_t bytes, int distance) override;
  void broadcast(void* data, size_t bytes, int root) override;
  /// What is queued behind it runs once all members have come to it; the host does not wait.
  void barrier() override;
  void send(const void* data, size_t bytes, int to) override;
  void receive(void* data, size_t bytes, int from) override;
  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) override;
  std::unique_ptr<Communicator> split(int colour, int key) override;
  /// Through the control group, then ends what this rank's device still waits for.
  void abort(const std::string& why, int exit_code) override;
  CommunicationCount count() const override { return counter_.value(); }
  void count_again(const CommunicationCount& count) override { counter_.again(count); }
  std::string transport() const override { return "nccl"; }

  kernels::Stream stream() const { return stream_->stream; }

 private:
  void check_reducible(DType dtype, const char* what) const;
  void copy(const void* from, void* to, size_t bytes);
  void reduce_by_tree(char* data, size_t count, DType dtype, ReduceOp op);
  void scatter_by_tree(const char* in, char* out, size_t count, DType dtype);
  void gather_and_fold(char* data, size_t count, DType dtype, ReduceOp op);
  void exchange(const NcclCall& what, const char* in, size_t in_stride, char* out, size_t out_stride, size_t bytes);
  void fold(size_t stride, const void* own, void* out, size_t count, DType dtype, ReduceOp op);
  size_t scratch_elements(DType dtype) const;

  std::shared_ptr<NcclStream> stream_;
  Communicator* control_;
  std::unique_ptr<Communicator> owned_control_;
  std::unique_ptr<NcclHandle> handle_;
  CommunicationCounter counter_;
};

}  // namespace capstan
