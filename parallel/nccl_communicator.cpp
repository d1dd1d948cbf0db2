#include "parallel/nccl_communicator.h"

#include <algorithm>

#include "parallel/nccl_channels.h"

namespace capstan {
namespace {

constexpr size_t kPieceAlign = 256;  ///< bytes to which pieces of runs are cut, so that packs stay whole

cudaStream_t cuda_stream(kernels::Stream stream) { return static_cast<cudaStream_t>(stream); }

/// The types that NCCL sums; false for others.
bool nccl_type(DType dtype, ncclDataType_t& type) {
  switch (dtype) {
    case DType::f64:
      return type = ncclFloat64, true;
    case DType::f32:
      return type = ncclFloat32, true;
    case DType::bf16:
      return type = ncclBfloat16, true;
    case DType::f16:
      return type = ncclFloat16, true;
    case DType::i64:
      return type = ncclInt64, true;
    case DType::i32:
      return type = ncclInt32, true;
    default:
      return false;
  }
}

ncclDataType_t reduced_type(DType dtype) {
  ncclDataType_t type = ncclInt8;
  nccl_type(dtype, type);
  return type;
}

}  // namespace

NcclStream::NcclStream(std::shared_ptr<NcclState> the_state, kernels::Stream the_stream, NcclGroupOptions the_options)
    : state(std::move(the_state)), stream(the_stream), options(the_options) {
  const size_t bytes = state->options.scratch_bytes;
  scratch = static_cast<char*>(state->device.allocate(bytes + kPieceAlign));
  flag = scratch + bytes;
  state->bytes += bytes + kPieceAlign;
}

NcclStream::~NcclStream() {
  state->bytes -= state->options.scratch_bytes + kPieceAlign;
  state->device.release(scratch);
}

NcclCommunicator::NcclCommunicator(std::shared_ptr<NcclStream> stream, std::unique_ptr<NcclHandle> handle,
                                   Communicator& control, std::unique_ptr<Communicator> owned_control)
    : stream_(std::move(stream)),
      control_(&control),
      owned_control_(std::move(owned_control)),
      handle_(std::move(handle)),
      counter_(handle_->size()) {}

void NcclCommunicator::check_reducible(DType dtype, const char* what) const {
  ncclDataType_t type;
  if (!nccl_type(dtype, type))
    throw Error::make(ExitCode::internal, "{} over ranks: wanted f64, f32, bf16, f16, i64 or i32, got {}", what,
                      name_of(dtype));
}

void NcclCommunicator::copy(const void* from, void* to, size_t bytes) {
  if (from != to && bytes > 0)
    stream_->state->kernels.copy({.from = from, .to = to, .row_bytes = bytes, .stream = stream_->stream});
}

void NcclCommunicator::all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) {
  check_reducible(dtype, "all_reduce");
  counter_.all_reduce(count * bytes_of(dtype));
  if (size() == 1 || count == 0) return;
  if (order == Reduction::ordered || (op == ReduceOp::max && is_floating(dtype)))
    return reduce_by_tree(static_cast<char*>(data), count, dtype, op);
  handle_->call({"all-reduce", count, name_of(dtype)}, [&](ncclComm_t comm) {
    return ncclAllReduce(data, data, count, reduced_type(dtype), op == ReduceOp::max ? ncclMax : ncclSum, comm,
                         cuda_stream(stream_->stream));
  });
}

void NcclCommunicator::reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) {
  check_reducible(dtype, "reduce_scatter");
  counter_.one_pass(count * bytes_of(dtype));
  if (size() == 1) return copy(in, out, count * bytes_of(dtype));
  if (count == 0) return;
  if (order == Reduction::ordered)
    return scatter_by_tree(static_cast<const char*>(in), static_cast<char*>(out), count, dtype);
  handle_->call({"reduce-scatter", count, name_of(dtype)}, [&](ncclComm_t comm) {
    return ncclReduceScatter(in, out, count, reduced_type(dtype), ncclSum, comm, cuda_stream(stream_->stream));
  });
}

void NcclCommunicator::all_gather(const void* in, void* out, size_t count, DType dtype) {
  const size_t bytes = count * bytes_of(dtype);
  counter_.one_pass(bytes);
  if (size() == 1) return copy(in, out, bytes);
  if (count == 0) return;
  handle_->call({"all-gather", count, name_of(dtype)}, [&](ncclComm_t comm) {
    return ncclAllGather(in, out, bytes, ncclInt8, comm, cuda_stream(stream_->stream));
  });
}

void NcclCommunicator::all_to_all(const void* in, void* out, size_t count, DType dtype) {
  const size_t bytes = count * bytes_of(dtype), mine = static_cast<size_t>(rank()) * bytes;
  counter_.one_pass(bytes);
  if (count == 0) return;
  copy(static_cast<const char*>(in) + mine, static_cast<char*>(out) + mine, bytes);
  exchange({"all-to-all", count, name_of(dtype)}, static_cast<const char*>(in), bytes, static_cast<char*>(out), bytes,
           bytes);
}

/// Run r of `in` goes to rank r, that of rank r comes to run r of `out`; a rank's own stays.
void NcclCommunicator::exchange(const NcclCall& what, const char* in, size_t in_stride, char* out, size_t out_stride,
                                size_t bytes) {
  if (size() == 1) return;
  handle_->call(what, [&](ncclComm_t comm) {
    return nccl_grouped([&] {
      NcclResults results;
      for (int i = 1; i < size(); ++i) {
        const int to = round_the_ring(rank(), i, size()), from = round_the_ring(rank(), -i, size());
        results.then([&] {
          return ncclSend(in + static_cast<size_t>(to) * in_stride, bytes, ncclInt8, to, comm,
                          cuda_stream(stream_->stream));
        });
        results.then([&] {
          return ncclRecv(out + static_cast<size_t>(from) * out_stride, bytes, ncclInt8, from, comm,
                          cuda_stream(stream_->stream));
        });
      }
      return results.value();
    });
  });
}

void NcclCommunicator::shift(const void* in, void* out, size_t bytes, int distance) {
  counter_.shift(bytes);
  const int to = round_the_ring(rank(), distance, size()), from = round_the_ring(rank(), -distance, size());
  if (to == rank()) return copy(in, out, bytes);
  if (bytes == 0) return;
  handle_->call({"shift", bytes}, [&](ncclComm_t comm) {
    return nccl_grouped([&] {
      NcclResults results;
      results.then([&] { return ncclSend(in, bytes, ncclInt8, to, comm, cuda_stream(stream_->stream)); });
      results.then([&] { return ncclRecv(out, bytes, ncclInt8, from, comm, cuda_stream(stream_->stream)); });
      return results.value();
    });
  });
}

void NcclCommunicator::broadcast(void* data, size_t bytes, int root) {
  CAPSTAN_CHECK(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  counter_.broadcast(bytes);
  if (size() == 1 || bytes == 0) return;
  handle_->call({"broadcast", bytes}, [&](ncclComm_t comm) {
    return ncclBroadcast(data, data, bytes, ncclInt8, root, comm, cuda_stream(stream_->stream));
  });
}

void NcclCommunicator::barrier() {
  counter_.nothing();
  if (size() == 1) return;
  handle_->call({"barrier"}, [&](ncclComm_t comm) {
    return ncclAllReduce(stream_->flag, stream_->flag, 1, ncclInt32, ncclSum, comm, cuda_stream(stream_->stream));
  });
}

/// Both sides know the length: an empty message is none.
void NcclCommunicator::send(const void* data, size_t bytes, int to) {
  CAPSTAN_CHECK(to >= 0 && to < size() && to != rank(), "send from rank {} to rank {} of {}", rank(), to, size());
  counter_.send(bytes);
  if (bytes == 0) return;
  handle_->call({"send", bytes}, [&](ncclComm_t comm) {
    return ncclSend(data, bytes, ncclInt8, to, comm, cuda_stream(stream_->stream));
  });
}

void NcclCommunicator::receive(void* data, size_t bytes, int from) {
  CAPSTAN_CHECK(from >= 0 && from < size() && from != rank(), "receive on rank {} from rank {} of {}", rank(), from,
                size());
  counter_.nothing();
  if (bytes == 0) return;
  handle_->call({"receive", bytes}, [&](ncclComm_t comm) {
    return ncclRecv(data, bytes, ncclInt8, from, comm, cuda_stream(stream_->stream));
  });
}

// ---- sums in the order of the tree

/// Elements of each rank's run that fit into the scratch, a multiple of the alignment.
size_t NcclCommunicator::scratch_elements(DType dtype) const {
  const size_t ranks = static_cast<size_t>(size());
  const size_t run = stream_->state->options.scratch_bytes / ranks / kPieceAlign * kPieceAlign;
  CAPSTAN_CHECK(run > 0, "a sum over {} ranks needs {} bytes of scratch, the session has {}", ranks,
                ranks * kPieceAlign, stream_->state->options.scratch_bytes);
  return run / bytes_of(dtype);
}

/// out := tree over what lies in the scratch, one run each `stride` bytes, but for this rank's own.
void NcclCommunicator::fold(size_t stride, const void* own, void* out, size_t count, DType dtype, ReduceOp op) {
  stream_->state->kernels.reduce_tree({.inputs = stream_->scratch,
                                       .stride = stride,
                                       .ranks = size(),
                                       .own = own != nullptr ? rank() : -1,
                                       .own_input = own,
                                       .out = out,
                                       .count = static_cast<int64_t>(count),
                                       .dtype = dtype,
                                       .max = op == ReduceOp::max,
                                       .stream = stream_->stream});
}

/// A piece is cut into one run for each rank, which sums it; what is left at the end everybody sums.
void NcclCommunicator::reduce_by_tree(char* data, size_t count, DType dtype, ReduceOp op) {
  const size_t size_of_one = bytes_of(dtype), ranks = static_cast<size_t>(size());
  const size_t most = scratch_elements(dtype), align = kPieceAlign / size_of_one;
  for (size_t done = 0; done < count;) {
    char* piece = data + done * size_of_one;
    const size_t run = std::min(most, (count - done) / ranks / align * align), bytes = run * size_of_one;
    if (run == 0) {
      const size_t rest = std::min(most, count - done);
      gather_and_fold(piece, rest, dtype, op);
      done += rest;
      continue;
    }
    char* mine = piece + static_cast<size_t>(rank()) * bytes;
    exchange({"all-reduce (exchange)", run * ranks, name_of(dtype)}, piece, bytes, stream_->scratch, bytes, bytes);
    fold(bytes, mine, mine, run, dtype, op);
    handle_->call({"all-reduce (gather)", run * ranks, name_of(dtype)}, [&](ncclComm_t comm) {
      return ncclAllGather(mine, piece, bytes, ncclInt8, comm, cuda_stream(stream_->stream));
    });
    done += run * ranks;
  }
}

void NcclCommunicator::gather_and_fold(char* data, size_t count, DType dtype, ReduceOp op) {
  const size_t bytes = count * bytes_of(dtype);
  handle_->call({"all-reduce (gather)", count, name_of(dtype)}, [&](ncclComm_t comm) {
    return ncclAllGather(data, stream_->scratch, bytes, ncclInt8, comm, cuda_stream(stream_->stream));
  });
  fold(bytes, nullptr, data, count, dtype, op);
}

void NcclCommunicator::scatter_by_tree(const char* in, char* out, size_t count, DType dtype) {
  const size_t size_of_one = bytes_of(dtype), stride = count * size_of_one;
  for (size_t done = 0; done < count;) {
    const size_t run = std::min(scratch_elements(dtype), count - done), at = done * size_of_one;
    const size_t bytes = run * size_of_one, aligned = (bytes + 15) / 16 * 16;
    exchange({"reduce-scatter (exchange)", run, name_of(dtype)}, in + at, stride, stream_->scratch, aligned, bytes);
    fold(aligned, in + static_cast<size_t>(rank()) * stride + at, out + at, run, dtype, ReduceOp::sum);
    done += run;
  }
}

// ---- groups and paths

std::unique_ptr<Channels> NcclCommunicator::open_channels(const std::vector<ChannelSpec>& paths, int capacity) {
  return nccl_channels(*handle_, stream_->stream, paths, capacity, counter_);
}

std::unique_ptr<Communicator> NcclCommunicator::split(int colour, int key) {
  CAPSTAN_CHECK(colour >= 0, "split with colour {}", colour);
  counter_.nothing();
  std::unique_ptr<Communicator> control = control_->split(colour, key);
  auto handle = std::make_unique<NcclHandle>(stream_->state, control->rank(), control->size(), handle_->world_rank());
  // All make the call, also those that are alone in their part and need nothing of it.
  if (size() > 1) handle->open(*handle_, control->size() > 1 ? colour : -1, key, stream_->options);
  Communicator& borrowed = *control;
  return std::make_unique<NcclCommunicator>(stream_, std::move(handle), borrowed, std::move(control));
}

void NcclCommunicator::abort(const std::string& why, int exit_code) {
  control_->abort(why, exit_code);
  stream_->state->fail(fmt::format("rank {} failed: {}", handle_->world_rank(), why));
}

}  // namespace capstan
