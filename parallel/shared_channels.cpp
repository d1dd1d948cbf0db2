#include "parallel/shared_channels.h"

#include <atomic>
#include <cstring>

#include "core/error.h"
#include "parallel/shared_window_copy.h"

namespace capstan {
namespace {

constexpr size_t kCellUnit = 128;  // two cache lines: neighbours are prefetched in pairs

size_t cell_bytes(const ChannelSpec& path) { return (path.bytes + kCellUnit - 1) / kCellUnit * kCellUnit; }

}  // namespace

struct SharedChannels::Counts {
  alignas(kCellUnit) std::atomic<uint64_t> written;
  alignas(kCellUnit) std::atomic<uint64_t> read;
};

size_t SharedChannels::bytes_for(const std::vector<ChannelSpec>& paths, int capacity) {
  size_t bytes = paths.size() * sizeof(Counts);
  for (const ChannelSpec& path : paths) bytes += cell_bytes(path) * static_cast<size_t>(capacity);
  return bytes;
}

SharedChannels::SharedChannels(std::shared_ptr<void> memory, std::vector<ChannelSpec> paths, int capacity,
                               const SharedWindow& window, CommunicationCounter& counter)
    : memory_(std::move(memory)),
      paths_(std::move(paths)),
      capacity_(static_cast<uint64_t>(capacity)),
      window_(window),
      counter_(counter) {
  size_t at = paths_.size() * sizeof(Counts);
  for (const ChannelSpec& path : paths_) {
    first_cell_.push_back(at);
    at += cell_bytes(path) * capacity_;
  }
}

SharedChannels::Counts& SharedChannels::counts(int path) const { return static_cast<Counts*>(memory_.get())[path]; }

std::byte* SharedChannels::cell(int path, uint64_t message) const {
  return static_cast<std::byte*>(memory_.get()) + first_cell_[static_cast<size_t>(path)] +
         message % capacity_ * cell_bytes(paths_[static_cast<size_t>(path)]);
}

template <typename Ready>
void SharedChannels::wait(int path, const char* what, Ready ready) const {
  const WaitPolicy& policy = window_.policy();
  if (policy.fault) policy.fault->throw_if_raised();
  Waiter waiter(policy);
  while (!ready()) {
    if (waiter.pause()) continue;
    const ChannelSpec& spec = paths_[static_cast<size_t>(path)];
    const uint64_t written = counts(path).written.load(std::memory_order_relaxed),
                   read = counts(path).read.load(std::memory_order_relaxed);
    throw Error::make(
        ExitCode::peer_lost,
        "hang: rank {} has waited {:.1f} s {} on the path of {} bytes from rank {} to rank {}, on which {} "
        "messages were sent and {} received",
        window_.world_rank(window_.rank()), waiter.seconds(), what, spec.bytes, window_.world_rank(spec.from),
        window_.world_rank(spec.to), written, read);
  }
}

void SharedChannels::put(int path, const void* data) {
  const ChannelSpec& spec = paths_.at(static_cast<size_t>(path));
  CAPSTAN_CHECK(spec.from == window_.rank(), "rank {} puts into the path of rank {}", window_.rank(), spec.from);
  counter_.send(spec.bytes);
  Counts& c = counts(path);
  const uint64_t message = c.written.load(std::memory_order_relaxed);
  wait(path, "for room", [&] { return message - c.read.load(std::memory_order_acquire) < capacity_; });
  copy_past_caches(cell(path, message), data, spec.bytes);
  c.written.store(message + 1, std::memory_order_release);
}

void SharedChannels::take(int path, void* data) {
  const ChannelSpec& spec = paths_.at(static_cast<size_t>(path));
  CAPSTAN_CHECK(spec.to == window_.rank(), "rank {} takes from the path to rank {}", window_.rank(), spec.to);
  counter_.nothing();
  Counts& c = counts(path);
  const uint64_t message = c.read.load(std::memory_order_relaxed);
  wait(path, "for a message", [&] { return c.written.load(std::memory_order_acquire) > message; });
  if (spec.bytes > 0) std::memcpy(data, cell(path, message), spec.bytes);
  c.read.store(message + 1, std::memory_order_release);
}

}  // namespace capstan
