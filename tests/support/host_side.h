#pragma once
// HostSide lets what speaks of host memory, such as the communicator suite, run over a group that speaks of device
// memory: every call copies in, calls, copies out and waits.

#include <memory>
#include <vector>

#include "core/communicator.h"
#include "kernels/device.h"

namespace capstan::testing {

/// Memory of a device that grows as asked.
class Staging {
 public:
  explicit Staging(kernels::DeviceRuntime& device) : device_(device) {}
  ~Staging() {
    if (memory_ != nullptr) device_.release(memory_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  char* get(size_t bytes) {
    if (bytes > bytes_) {
      if (memory_ != nullptr) device_.release(memory_);
      memory_ = device_.allocate(bytes), bytes_ = bytes;
    }
    return static_cast<char*>(memory_);
  }

 private:
  kernels::DeviceRuntime& device_;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

class HostSide final : public Communicator {
 public:
  HostSide(kernels::DeviceRuntime& device, kernels::Stream stream, std::unique_ptr<Communicator> group)
      : device_(device), stream_(stream), group_(std::move(group)), in_(device), out_(device) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) override {
    const size_t bytes = count * bytes_of(dtype);
    char* at = bring(in_, data, bytes);
    group_->all_reduce(at, count, dtype, op, order);
    fetch(data, at, bytes);
  }
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) override {
    const size_t run = count * bytes_of(dtype);
    char* at = bring(in_, in, run * ranks());
    char* to = beside(at, in, out, run * ranks());
    group_->reduce_scatter(at, to, count, dtype, order);
    fetch(out, to, run);
  }
  void all_gather(const void* in, void* out, size_t count, DType dtype) override {
    const size_t run = count * bytes_of(dtype);
    char* to = out_.get(run * ranks() + 1);
    const auto offset = static_cast<const char*>(in) - static_cast<char*>(out);
    const bool in_place = offset >= 0 && static_cast<size_t>(offset) < run * ranks();
    char* at = in_place ? to + offset : in_.get(run + 1);
    device_.copy_in(at, in, run, stream_);
    group_->all_gather(at, to, count, dtype);
    fetch(out, to, run * ranks());
  }
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override {
    const size_t bytes = count * bytes_of(dtype) * ranks();
    char *at = bring(in_, in, bytes), *to = out_.get(bytes + 1);
    group_->all_to_all(at, to, count, dtype);
    fetch(out, to, bytes);
  }
  void shift(const void* in, void* out, size_t bytes, int distance) override {
    char *at = bring(in_, in, bytes), *to = out_.get(bytes + 1);
    group_->shift(at, to, bytes, distance);
    fetch(out, to, bytes);
  }
  void broadcast(void* data, size_t bytes, int root) override {
    char* at = bring(in_, data, bytes);
    group_->broadcast(at, bytes, root);
    fetch(data, at, bytes);
  }
  void barrier() override {
    group_->barrier();
    device_.finish(stream_);
  }
  void send(const void* data, size_t bytes, int to) override {
    group_->send(bring(in_, data, bytes), bytes, to);
    device_.finish(stream_);
  }
  void receive(void* data, size_t bytes, int from) override {
    char* at = out_.get(bytes + 1);
    group_->receive(at, bytes, from);
    fetch(data, at, bytes);
  }
  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) override;
  std::unique_ptr<Communicator> split(int colour, int key) override {
    return std::make_unique<HostSide>(device_, stream_, group_->split(colour, key));
  }
  void abort(const std::string& why, int exit_code) override { group_->abort(why, exit_code); }
  CommunicationCount count() const override { return group_->count(); }
  std::string transport() const override { return group_->transport(); }
  Communicator& device_side() { return *group_; }

 private:
  size_t ranks() const { return static_cast<size_t>(size()); }
  char* bring(Staging& staging, const void* data, size_t bytes) {
    char* at = staging.get(bytes + 1);
    device_.copy_in(at, data, bytes, stream_);
    return at;
  }
  void fetch(void* data, const char* at, size_t bytes) {
    device_.copy_out(data, at, bytes, stream_);
    device_.finish(stream_);
  }
  /// Where `out` is, when it lies inside of `in`; else memory of its own.
  char* beside(char* at, const void* in, const void* out, size_t bytes) {
    const auto offset = static_cast<const char*>(out) - static_cast<const char*>(in);
    return offset >= 0 && static_cast<size_t>(offset) < bytes ? at + offset : out_.get(bytes + 1);
  }

  kernels::DeviceRuntime& device_;
  kernels::Stream stream_;
  std::unique_ptr<Communicator> group_;
  Staging in_, out_;
};

class HostSideChannels final : public Channels {
 public:
  HostSideChannels(kernels::DeviceRuntime& device, kernels::Stream stream, std::unique_ptr<Channels> channels,
                   std::vector<ChannelSpec> paths)
      : device_(device), stream_(stream), channels_(std::move(channels)), paths_(std::move(paths)), staging_(device) {}
  void put(int path, const void* data) override {
    const size_t bytes = paths_.at(static_cast<size_t>(path)).bytes;
    char* at = staging_.get(bytes + 1);
    device_.copy_in(at, data, bytes, stream_);
    channels_->put(path, at);
    device_.finish(stream_);
  }
  void take(int path, void* data) override {
    const size_t bytes = paths_.at(static_cast<size_t>(path)).bytes;
    char* at = staging_.get(bytes + 1);
    channels_->take(path, at);
    device_.copy_out(data, at, bytes, stream_);
    device_.finish(stream_);
  }

 private:
  kernels::DeviceRuntime& device_;
  kernels::Stream stream_;
  std::unique_ptr<Channels> channels_;
  std::vector<ChannelSpec> paths_;
  Staging staging_;
};

inline std::unique_ptr<Channels> HostSide::open_channels(const std::vector<ChannelSpec>& paths, int capacity) {
  return std::make_unique<HostSideChannels>(device_, stream_, group_->open_channels(paths, capacity), paths);
}

}  // namespace capstan::testing
