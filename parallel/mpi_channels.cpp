#include "parallel/mpi_channels.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "core/error.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_turn.h"

namespace capstan {
namespace {

class MpiChannels final : public Channels {
 public:
  MpiChannels(MPI_Comm group, int first_tag, const std::vector<ChannelSpec>& paths, int capacity,
              const MpiOptions& options, CommunicationCounter& counter)
      : group_(group),
        first_tag_(first_tag),
        message_bytes_(options.message_bytes),
        turn_(options.turn),
        counter_(counter) {
    check_mpi(MPI_Comm_rank(group_, &rank_), "MPI_Comm_rank");
    for (const ChannelSpec& spec : paths) {
      Path path{spec, {}, 0};
      if (spec.from == rank_) path.cells.resize(static_cast<size_t>(capacity));
      for (Cell& cell : path.cells) cell.data.resize(spec.bytes), cell.requests.reserve(pieces(spec.bytes));
      paths_.push_back(std::move(path));
    }
  }
  /// Who receives may be behind; when an exception ends the job, nobody is waited for.
  ~MpiChannels() override {
    int ended = 0;
    MPI_Finalized(&ended);
    if (ended || std::uncaught_exceptions() > 0) return;
    for (Path& path : paths_)
      for (Cell& cell : path.cells) turn_->wait(cell.requests, "MPI_Testall");
  }

  void put(int index, const void* data) override {
    Path& path = paths_.at(static_cast<size_t>(index));
    CAPSTAN_CHECK(path.spec.from == rank_, "rank {} puts into the path of rank {}", rank_, path.spec.from);
    counter_.send(path.spec.bytes);
    Cell& cell = path.cells[path.next++ % path.cells.size()];
    turn_->wait(cell.requests, "MPI_Testall");
    cell.requests.clear();
    if (path.spec.bytes > 0) std::memcpy(cell.data.data(), data, path.spec.bytes);
    each_piece(path.spec.bytes, [&](size_t begin, size_t length) {
      turn_->start("MPI_Isend", [&] {
        return MPI_Isend(cell.data.data() + begin, static_cast<int>(length), MPI_BYTE, path.spec.to, first_tag_ + index,
                         group_, &cell.requests.emplace_back());
      });
    });
  }

  void take(int index, void* data) override {
    const ChannelSpec& spec = paths_.at(static_cast<size_t>(index)).spec;
    CAPSTAN_CHECK(spec.to == rank_, "rank {} takes from the path to rank {}", rank_, spec.to);
    counter_.nothing();
    each_piece(spec.bytes, [&](size_t begin, size_t length) {
      turn_->complete("MPI_Irecv", [&](MPI_Request* request) {
        return MPI_Irecv(static_cast<std::byte*>(data) + begin, static_cast<int>(length), MPI_BYTE, spec.from,
                         first_tag_ + index, group_, request);
      });
    });
  }

 private:
  struct Cell {
    std::vector<std::byte> data;
    std::vector<MPI_Request> requests;
  };
  struct Path {
    ChannelSpec spec;
    std::vector<Cell> cells;  ///< of the sender
    size_t next = 0;
  };
  size_t pieces(size_t bytes) const { return std::max<size_t>(1, (bytes + message_bytes_ - 1) / message_bytes_); }
  template <typename Use>
  void each_piece(size_t bytes, Use use) const {
    size_t begin = 0;
    do {
      const size_t length = std::min(message_bytes_, bytes - begin);
      use(begin, length);
      begin += length;
    } while (begin < bytes);
  }

  MPI_Comm group_;
  int first_tag_, rank_ = 0;
  size_t message_bytes_;
  std::shared_ptr<MpiTurn> turn_;
  CommunicationCounter& counter_;
  std::vector<Path> paths_;
};

}  // namespace

std::unique_ptr<Channels> mpi_channels(MPI_Comm group, int first_tag, const std::vector<ChannelSpec>& paths,
                                       int capacity, const MpiOptions& options, CommunicationCounter& counter) {
  return std::make_unique<MpiChannels>(group, first_tag, paths, capacity, options, counter);
}

}  // namespace capstan
