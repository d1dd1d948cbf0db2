#include "parallel/nccl_channels.h"

#include <deque>
#include <exception>

namespace capstan {
namespace {

using kernels::Event;
using kernels::Stream;

constexpr size_t kSlotAlign = 256;
/// Multiprocessors a waiting message may hold: few, since computation goes on beside it.
constexpr int kPathCtas = 4;

class NcclPath {
 public:
  /// Collective over the group of `parent`.
  NcclPath(NcclHandle& parent, const ChannelSpec& spec, int capacity);
  ~NcclPath();
  NcclPath(const NcclPath&) = delete;
  NcclPath& operator=(const NcclPath&) = delete;

  const ChannelSpec& spec() const { return spec_; }
  void put(const void* data, Stream computation);
  void take(void* data, Stream computation);

 private:
  struct Slot {
    char* data = nullptr;
    Event filled{};  ///< of the sender: copied in; of the receiver: received
    Event freed{};   ///< of the sender: sent; of the receiver: copied out
  };
  void make_ring(int capacity);
  void connect();
  Slot& next() { return ring_[static_cast<size_t>(messages_++ % ring_.size())]; }
  void copy(const void* from, void* to, Stream stream) const {
    if (spec_.bytes > 0) state_->kernels.copy({.from = from, .to = to, .row_bytes = spec_.bytes, .stream = stream});
  }

  ChannelSpec spec_;
  std::shared_ptr<NcclState> state_;
  std::unique_ptr<NcclHandle> handle_;  ///< of the two ranks: sender 0, receiver 1
  Stream stream_{};
  char* slots_ = nullptr;
  size_t slots_bytes_ = 0;
  std::vector<Slot> ring_;
  uint64_t messages_ = 0;
};

NcclPath::NcclPath(NcclHandle& parent, const ChannelSpec& spec, int capacity)
    : spec_(spec), state_(parent.shared_state()) {
  const bool sender = parent.rank() == spec.from, receiver = parent.rank() == spec.to;
  handle_ = std::make_unique<NcclHandle>(state_, receiver ? 1 : 0, 2, parent.world_rank(), false);
  handle_->open(parent, sender || receiver ? 0 : -1, receiver ? 1 : 0, {kPathCtas});
  if (!sender && !receiver) return;
  make_ring(capacity);
  connect();
}

void NcclPath::make_ring(int capacity) {
  kernels::DeviceRuntime& device = state_->device;
  stream_ = device.open_stream();
  const size_t slot = (std::max<size_t>(spec_.bytes, 1) + kSlotAlign - 1) / kSlotAlign * kSlotAlign;
  slots_bytes_ = slot * static_cast<size_t>(capacity);
  slots_ = static_cast<char*>(device.allocate(slots_bytes_));
  state_->bytes += slots_bytes_;
  for (size_t i = 0; i < static_cast<size_t>(capacity); ++i)
    ring_.push_back({slots_ + i * slot, device.make_event(), device.make_event()});
  handle_->enlist({slots_, slots_bytes_});
}

/// NCCL connects two ranks in their first message, and the host of each waits there for the other's. So that is sent
/// here, to where both come in one order, not in the midst of a schedule in which each may be about to send to the
/// other.
void NcclPath::connect() {
  if (spec_.bytes == 0) return;
  const bool sends = handle_->rank() == 0;
  const size_t free_before = state_->device.facts().free_bytes;
  handle_->call({"first message of a path", 1}, [&](ncclComm_t comm) {
    return sends ? ncclSend(slots_, 1, ncclInt8, 1, comm, static_cast<cudaStream_t>(stream_))
                 : ncclRecv(slots_, 1, ncclInt8, 0, comm, static_cast<cudaStream_t>(stream_));
  });
  state_->device.finish(stream_);
  state_->bytes += free_before - std::min(free_before, state_->device.facts().free_bytes);
}

/// When an exception ends the job, nobody is waited for.
NcclPath::~NcclPath() {
  if (slots_ == nullptr) return;
  try {
    if (std::uncaught_exceptions() == 0) state_->device.finish(stream_);
  } catch (const std::exception&) {  // the device is lost, and its memory with it
  }
  handle_.reset();
  state_->bytes -= slots_bytes_;
  state_->device.release(slots_);
}

void NcclPath::put(const void* data, Stream computation) {
  kernels::DeviceRuntime& device = state_->device;
  Slot& slot = next();
  device.wait(computation, slot.freed);
  copy(data, slot.data, computation);
  device.record(slot.filled, computation);
  device.wait(stream_, slot.filled);
  if (spec_.bytes > 0)
    handle_->call({"send to a stage", spec_.bytes}, [&](ncclComm_t comm) {
      return ncclSend(slot.data, spec_.bytes, ncclInt8, 1, comm, static_cast<cudaStream_t>(stream_));
    });
  device.record(slot.freed, stream_);
}

void NcclPath::take(void* data, Stream computation) {
  kernels::DeviceRuntime& device = state_->device;
  Slot& slot = next();
  device.wait(stream_, slot.freed);
  if (spec_.bytes > 0)
    handle_->call({"receive from a stage", spec_.bytes}, [&](ncclComm_t comm) {
      return ncclRecv(slot.data, spec_.bytes, ncclInt8, 0, comm, static_cast<cudaStream_t>(stream_));
    });
  device.record(slot.filled, stream_);
  device.wait(computation, slot.filled);
  copy(slot.data, data, computation);
  device.record(slot.freed, computation);
}

class NcclChannels final : public Channels {
 public:
  NcclChannels(NcclHandle& parent, Stream stream, const std::vector<ChannelSpec>& paths, int capacity,
               CommunicationCounter& counter)
      : rank_(parent.rank()), stream_(stream), counter_(counter) {
    for (const ChannelSpec& spec : paths) paths_.emplace_back(parent, spec, capacity);
  }

  void put(int index, const void* data) override {
    NcclPath& path = paths_.at(static_cast<size_t>(index));
    CAPSTAN_CHECK(path.spec().from == rank_, "rank {} puts into the path of rank {}", rank_, path.spec().from);
    counter_.send(path.spec().bytes);
    path.put(data, stream_);
  }
  void take(int index, void* data) override {
    NcclPath& path = paths_.at(static_cast<size_t>(index));
    CAPSTAN_CHECK(path.spec().to == rank_, "rank {} takes from the path to rank {}", rank_, path.spec().to);
    counter_.nothing();
    path.take(data, stream_);
  }

 private:
  int rank_;
  Stream stream_;
  CommunicationCounter& counter_;
  std::deque<NcclPath> paths_;
};

}  // namespace

std::unique_ptr<Channels> nccl_channels(NcclHandle& parent, Stream stream, const std::vector<ChannelSpec>& paths,
                                        int capacity, CommunicationCounter& counter) {
  for (const ChannelSpec& path : paths)
    CAPSTAN_CHECK(
        path.from != path.to && std::min(path.from, path.to) >= 0 && std::max(path.from, path.to) < parent.size(),
        "a path from rank {} to rank {} of {}", path.from, path.to, parent.size());
  CAPSTAN_CHECK(capacity > 0, "paths for {} messages", capacity);
  return std::make_unique<NcclChannels>(parent, stream, paths, capacity, counter);
}

}  // namespace capstan
