#pragma once
// WatchedCommunicator: a group whose calls are noted in a flight recorder, for the calls that no plan makes (start,
// agreement on checkpoints, barriers). Groups split from it are not watched: their calls are ops of plans, which the
// recorder sees as the programs' observer.

#include "core/communicator.h"
#include "parallel/flight_recorder.h"

namespace capstan {

class WatchedCommunicator final : public Communicator {
 public:
  WatchedCommunicator(Communicator& group, FlightRecorder& recorder) : group_(group), recorder_(recorder) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) override {
    const Noted noted(recorder_, "all-reduce");
    group_.all_reduce(data, count, dtype, op, order);
  }
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) override {
    const Noted noted(recorder_, "reduce-scatter");
    group_.reduce_scatter(in, out, count, dtype, order);
  }
  void all_gather(const void* in, void* out, size_t count, DType dtype) override {
    const Noted noted(recorder_, "all-gather");
    group_.all_gather(in, out, count, dtype);
  }
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override {
    const Noted noted(recorder_, "all-to-all");
    group_.all_to_all(in, out, count, dtype);
  }
  void shift(const void* in, void* out, size_t bytes, int distance) override {
    const Noted noted(recorder_, "shift");
    group_.shift(in, out, bytes, distance);
  }
  void broadcast(void* data, size_t bytes, int root) override {
    const Noted noted(recorder_, "broadcast");
    group_.broadcast(data, bytes, root);
  }
  void barrier() override {
    const Noted noted(recorder_, "barrier");
    group_.barrier();
  }
  void send(const void* data, size_t bytes, int to) override {
    const Noted noted(recorder_, "send");
    group_.send(data, bytes, to);
  }
  void receive(void* data, size_t bytes, int from) override {
    const Noted noted(recorder_, "receive");
    group_.receive(data, bytes, from);
  }
  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) override {
    const Noted noted(recorder_, "opening of paths");
    return group_.open_channels(paths, capacity);
  }
  std::unique_ptr<Communicator> split(int colour, int key) override {
    const Noted noted(recorder_, "split");
    return group_.split(colour, key);
  }
  void abort(const std::string& why, int exit_code) override { group_.abort(why, exit_code); }
  CommunicationCount count() const override { return group_.count(); }
  void count_again(const CommunicationCount& count) override { group_.count_again(count); }
  std::string transport() const override { return group_.transport(); }

 private:
  struct Noted {
    Noted(FlightRecorder& to, const char* name) : recorder(to) { recorder.enter_collective(name); }
    ~Noted() { recorder.leave_collective(); }
    Noted(const Noted&) = delete;
    Noted& operator=(const Noted&) = delete;
    FlightRecorder& recorder;
  };

  Communicator& group_;
  FlightRecorder& recorder_;
};

}  // namespace capstan
