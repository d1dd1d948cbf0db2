// All collectives by MPI calls, for groups that span nodes.
//
// MPI_Allreduce promises no order of summation, so wherever the order matters the terms themselves travel and
// reduce_tree adds them. Few bytes: everybody gathers everybody's terms. Many: rank r gathers the terms of slice r,
// sums them and the slices are gathered, which moves 2 (n-1)/n B per rank as a ring does.

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/communicator_count.h"
#include "parallel/communicator_slices.h"
#include "parallel/mpi_channels.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_turn.h"
#include "parallel/reduction_tree.h"

namespace capstan {
namespace {

constexpr size_t kGatherBytes = 4 << 10;  // up to here a reduction gathers all terms on every rank
constexpr size_t kChunkBytes = 4 << 20;   // scratch of a reduction of more

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return MPI_DOUBLE;
    case DType::f32:
      return MPI_FLOAT;
    case DType::i64:
      return MPI_INT64_T;
    case DType::i32:
      return MPI_INT32_T;
    default:
      return MPI_DATATYPE_NULL;
  }
}

class MpiMessageCommunicator final : public Communicator {
 public:
  MpiMessageCommunicator(MpiGroup group, MpiOptions options)
      : group_(std::move(group)),
        options_(std::move(options)),
        turn_(*options_.turn),
        rank_(group_.rank()),
        size_(group_.size()),
        counter_(size_),
        inputs_(static_cast<size_t>(size_)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
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
  std::unique_ptr<Communicator> split(int colour, int key) override;
  void abort(const std::string&, int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }
  CommunicationCount count() const override { return counter_.value(); }
  std::string transport() const override { return "mpi"; }

 private:
  /// The pieces [begin, begin + length) in which `bytes` are handed to MPI, each within an int.
  template <typename Use>
  void in_pieces(size_t bytes, size_t piece, Use use) const {
    for (size_t begin = 0; begin < bytes; begin += piece) use(begin, std::min(piece, bytes - begin));
  }
  /// Sends send(r) to each other rank r and receives receive(r) from it: (address, bytes) pairs, each within an int.
  template <typename Send, typename Receive>
  void exchange(Send send_part, Receive receive_part);
  void all_reduce_gathered(std::byte* data, size_t bytes, DType dtype, ReduceOp op);
  void all_reduce_sliced(std::byte* data, const Slices& slices, DType dtype, ReduceOp op);
  void gather_slices(std::byte* data, const Slices& slices);
  std::byte* scratch(size_t bytes);

  MpiGroup group_;
  MpiOptions options_;
  MpiTurn& turn_;
  int rank_, size_;
  CommunicationCounter counter_;
  std::vector<const void*> inputs_;
  std::vector<std::byte> scratch_;
  std::vector<MPI_Request> requests_;
  int next_tag_ = 2;  // of paths: 0 is send's, 1 exchange's
};

using Part = std::pair<const std::byte*, size_t>;
using Place = std::pair<std::byte*, size_t>;

std::byte* MpiMessageCommunicator::scratch(size_t bytes) {
  if (scratch_.size() < bytes) scratch_.resize(bytes);
  return scratch_.data();
}

template <typename Send, typename Receive>
void MpiMessageCommunicator::exchange(Send send_part, Receive receive_part) {
  requests_.clear();
  for (int step = 1; step < size_; ++step) {  // each rank begins with another peer
    const int from = (rank_ - step + size_) % size_;
    const Place place = receive_part(from);
    turn_.start("MPI_Irecv", [&] {
      return MPI_Irecv(place.first, static_cast<int>(place.second), MPI_BYTE, from, 1, group_.handle(),
                       &requests_.emplace_back());
    });
  }
  for (int step = 1; step < size_; ++step) {
    const int to = (rank_ + step) % size_;
    const Part part = send_part(to);
    turn_.start("MPI_Isend", [&] {
      return MPI_Isend(part.first, static_cast<int>(part.second), MPI_BYTE, to, 1, group_.handle(),
                       &requests_.emplace_back());
    });
  }
  turn_.wait(requests_, "MPI_Testall");
}

void MpiMessageCommunicator::all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) {
  CAPSTAN_CHECK(reducible(dtype), "reduction over ranks: wanted f64, f32, bf16, f16, i64 or i32, got {}",
                name_of(dtype));
  auto* begin = static_cast<std::byte*>(data);
  const size_t width = bytes_of(dtype), bytes = count * width;
  counter_.all_reduce(bytes);
  const bool halves = dtype == DType::bf16 || dtype == DType::f16;
  const bool by_tree = halves || (op == ReduceOp::max ? is_floating(dtype) : order == Reduction::ordered);
  if (by_tree && bytes <= kGatherBytes) return all_reduce_gathered(begin, bytes, dtype, op);
  in_pieces(bytes, by_tree ? kChunkBytes : options_.message_bytes / width * width, [&](size_t at, size_t length) {
    if (by_tree) return all_reduce_sliced(begin, Slices(at, at + length, size_), dtype, op);
    turn_.complete("MPI_Iallreduce", [&](MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, begin + at, static_cast<int>(length / width), mpi_type(dtype),
                            op == ReduceOp::sum ? MPI_SUM : MPI_MAX, group_.handle(), request);
    });
  });
}

void MpiMessageCommunicator::all_reduce_gathered(std::byte* data, size_t bytes, DType dtype, ReduceOp op) {
  if (bytes == 0) return;
  std::byte* all = scratch(bytes * static_cast<size_t>(size_));
  turn_.complete("MPI_Iallgather", [&](MPI_Request* request) {
    return MPI_Iallgather(data, static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes), MPI_BYTE,
                          group_.handle(), request);
  });
  for (size_t r = 0; r < inputs_.size(); ++r) inputs_[r] = all + r * bytes;
  reduce_tree(data, inputs_.data(), size_, bytes / bytes_of(dtype), dtype, op);
}

void MpiMessageCommunicator::all_reduce_sliced(std::byte* data, const Slices& slices, DType dtype, ReduceOp op) {
  const size_t own = slices.bytes(rank_);
  std::byte* terms = scratch(own * static_cast<size_t>(size_));
  const auto term = [&](int r) { return terms + static_cast<size_t>(r) * own; };
  exchange([&](int r) { return Part(data + slices.in_array(r), slices.bytes(r)); },
           [&](int r) { return Place(term(r), own); });
  std::byte* sum = data + slices.in_array(rank_);
  for (int r = 0; r < size_; ++r) inputs_[static_cast<size_t>(r)] = r == rank_ ? sum : term(r);
  reduce_tree(sum, inputs_.data(), size_, own / bytes_of(dtype), dtype, op);
  gather_slices(data, slices);
}

void MpiMessageCommunicator::gather_slices(std::byte* data, const Slices& slices) {
  std::vector<int> lengths, places;
  for (int r = 0; r < size_; ++r) {
    lengths.push_back(static_cast<int>(slices.bytes(r)));
    places.push_back(static_cast<int>(slices.in_run(r)));
  }
  turn_.complete("MPI_Iallgatherv", [&](MPI_Request* request) {
    return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data + slices.in_array(0), lengths.data(), places.data(),
                           MPI_BYTE, group_.handle(), request);
  });
}

void MpiMessageCommunicator::reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction) {
  CAPSTAN_CHECK(reducible(dtype), "reduction over ranks: wanted f64, f32, bf16, f16, i64 or i32, got {}",
                name_of(dtype));
  const auto* from = static_cast<const std::byte*>(in);
  const size_t n = static_cast<size_t>(size_), run = count * bytes_of(dtype);
  counter_.one_pass(run);
  const size_t piece = std::max(kChunkBytes / n, Slices::kAlign) / Slices::kAlign * Slices::kAlign;
  in_pieces(run, piece, [&](size_t begin, size_t length) {
    std::byte* terms = scratch(length * n);
    const auto own = [&](int r) { return from + static_cast<size_t>(r) * run + begin; };
    const auto term = [&](int r) { return terms + static_cast<size_t>(r) * length; };
    exchange([&](int r) { return Part(own(r), length); }, [&](int r) { return Place(term(r), length); });
    for (int r = 0; r < size_; ++r) inputs_[static_cast<size_t>(r)] = r == rank_ ? own(r) : term(r);
    reduce_tree(static_cast<std::byte*>(out) + begin, inputs_.data(), size_, length / bytes_of(dtype), dtype,
                ReduceOp::sum);
  });
}

void MpiMessageCommunicator::all_gather(const void* in, void* out, size_t count, DType dtype) {
  const auto* from = static_cast<const std::byte*>(in);
  auto* to = static_cast<std::byte*>(out);
  const size_t run = count * bytes_of(dtype);
  const auto place = [&](int r) { return to + static_cast<size_t>(r) * run; };
  counter_.one_pass(run);
  if (run > 0 && from != place(rank_)) std::memcpy(place(rank_), from, run);
  if (run * static_cast<size_t>(size_) <= options_.message_bytes) {
    turn_.complete("MPI_Iallgather", [&](MPI_Request* request) {
      return MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out, static_cast<int>(run), MPI_BYTE, group_.handle(),
                            request);
    });
    return;
  }
  in_pieces(run, options_.message_bytes, [&](size_t begin, size_t length) {
    exchange([&](int) { return Part(place(rank_) + begin, length); },
             [&](int r) { return Place(place(r) + begin, length); });
  });
}

void MpiMessageCommunicator::all_to_all(const void* in, void* out, size_t count, DType dtype) {
  const auto* from = static_cast<const std::byte*>(in);
  auto* to = static_cast<std::byte*>(out);
  const size_t run = count * bytes_of(dtype);
  const auto offset = [&](int r) { return static_cast<size_t>(r) * run; };
  counter_.one_pass(run);
  if (run * static_cast<size_t>(size_) <= options_.message_bytes) {
    turn_.complete("MPI_Ialltoall", [&](MPI_Request* request) {
      return MPI_Ialltoall(in, static_cast<int>(run), MPI_BYTE, out, static_cast<int>(run), MPI_BYTE, group_.handle(),
                           request);
    });
    return;
  }
  std::memcpy(to + offset(rank_), from + offset(rank_), run);
  in_pieces(run, options_.message_bytes, [&](size_t begin, size_t length) {
    exchange([&](int r) { return Part(from + offset(r) + begin, length); },
             [&](int r) { return Place(to + offset(r) + begin, length); });
  });
}

void MpiMessageCommunicator::shift(const void* in, void* out, size_t bytes, int distance) {
  counter_.shift(bytes);
  const int to = round_the_ring(rank_, distance, size_), from = round_the_ring(rank_, -distance, size_);
  in_pieces(bytes, options_.message_bytes, [&](size_t begin, size_t length) {
    requests_.assign(2, MPI_REQUEST_NULL);
    turn_.start("MPI_Irecv", [&] {
      return MPI_Irecv(static_cast<std::byte*>(out) + begin, static_cast<int>(length), MPI_BYTE, from, 1,
                       group_.handle(), &requests_[0]);
    });
    turn_.start("MPI_Isend", [&] {
      return MPI_Isend(static_cast<const std::byte*>(in) + begin, static_cast<int>(length), MPI_BYTE, to, 1,
                       group_.handle(), &requests_[1]);
    });
    turn_.wait(requests_, "MPI_Testall");
  });
}

void MpiMessageCommunicator::broadcast(void* data, size_t bytes, int root) {
  CAPSTAN_CHECK(root >= 0 && root < size_, "broadcast from rank {} in a group of {}", root, size_);
  counter_.broadcast(bytes);
  in_pieces(bytes, options_.message_bytes, [&](size_t begin, size_t length) {
    turn_.complete("MPI_Ibcast", [&](MPI_Request* request) {
      return MPI_Ibcast(static_cast<std::byte*>(data) + begin, static_cast<int>(length), MPI_BYTE, root,
                        group_.handle(), request);
    });
  });
}

void MpiMessageCommunicator::barrier() {
  counter_.nothing();
  turn_.complete("MPI_Ibarrier", [&](MPI_Request* request) { return MPI_Ibarrier(group_.handle(), request); });
}

// Every message is followed by none or more of exactly the full piece, so an empty message is one empty piece.
void MpiMessageCommunicator::send(const void* data, size_t bytes, int to) {
  CAPSTAN_CHECK(to >= 0 && to < size_ && to != rank_, "send from rank {} of {} to {}", rank_, size_, to);
  counter_.send(bytes);
  size_t begin = 0;
  do {
    const size_t length = std::min(options_.message_bytes, bytes - begin);
    turn_.complete("MPI_Isend", [&](MPI_Request* request) {
      return MPI_Isend(static_cast<const std::byte*>(data) + begin, static_cast<int>(length), MPI_BYTE, to, 0,
                       group_.handle(), request);
    });
    begin += length;
  } while (begin < bytes);
}

void MpiMessageCommunicator::receive(void* data, size_t bytes, int from) {
  CAPSTAN_CHECK(from >= 0 && from < size_ && from != rank_, "receive by rank {} of {} from {}", rank_, size_, from);
  counter_.nothing();
  size_t begin = 0;
  do {
    const size_t length = std::min(options_.message_bytes, bytes - begin);
    MPI_Request request = MPI_REQUEST_NULL;
    turn_.start("MPI_Irecv", [&] {
      return MPI_Irecv(static_cast<std::byte*>(data) + begin, static_cast<int>(length), MPI_BYTE, from, 0,
                       group_.handle(), &request);
    });
    const MPI_Status status = turn_.wait(request, "MPI_Test");
    int got = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &got), "MPI_Get_count");
    CAPSTAN_CHECK(static_cast<size_t>(got) == length, "rank {} wants {} bytes from rank {}, which sends {}", rank_,
                  bytes, from, begin + static_cast<size_t>(got));
    begin += length;
  } while (begin < bytes);
}

std::unique_ptr<Channels> MpiMessageCommunicator::open_channels(const std::vector<ChannelSpec>& paths, int capacity) {
  const int first_tag = std::exchange(next_tag_, next_tag_ + static_cast<int>(paths.size()));
  return mpi_channels(group_.handle(), first_tag, paths, capacity, options_, counter_);
}

std::unique_ptr<Communicator> MpiMessageCommunicator::split(int colour, int key) {
  counter_.nothing();
  return mpi_communicator(group_.split(colour, key), options_);
}

}  // namespace

std::unique_ptr<Communicator> mpi_message_communicator(MpiGroup group, const MpiOptions& options) {
  MpiOptions own = options;
  if (!own.turn) own.turn = std::make_shared<MpiTurn>();
  return std::make_unique<MpiMessageCommunicator>(std::move(group), std::move(own));
}

}  // namespace capstan
