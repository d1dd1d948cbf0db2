#pragma once
// StreamLane: a lane (core/lane.h) that is a stream of a device. An op that is posted waits, on the lane's stream, for
// what computation has queued so far, and is queued there at once; who waits for it makes the stream of computation
// wait, never the host. So wait() returns before the op is done: only what is queued on the stream of computation, or
// the host after it has waited for that stream, may look at what the op wrote.
// Rules: kernels of posted ops go where RunArgs::stream says; the lane's groups are tied to the lane's stream.

#include <vector>

#include "core/axis_groups.h"
#include "core/lane.h"
#include "kernels/device.h"

namespace capstan {

class StreamLane final : public Lane {
 public:
  /// Of the lane's stream and of that of computation. The device outlives the lane.
  StreamLane(kernels::DeviceRuntime& device, kernels::Stream lane, kernels::Stream computation,
             std::shared_ptr<const AxisGroups> groups);
  ~StreamLane() override;
  StreamLane(const StreamLane&) = delete;
  StreamLane& operator=(const StreamLane&) = delete;

  kernels::Stream stream() const { return lane_; }
  /// Throws what the op throws when it is queued.
  uint64_t post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) override;
  /// As the device tells: all before it is done.
  uint64_t done() const override;
  void wait(uint64_t number) override;
  void abandon(std::shared_ptr<void> needed) override;

 private:
  kernels::Event& event_of(uint64_t number) { return ring_[static_cast<size_t>(number % ring_.size())]; }

  kernels::DeviceRuntime& device_;
  kernels::Stream lane_, computation_;
  std::shared_ptr<const AxisGroups> groups_;
  std::vector<kernels::Event> ring_;  ///< recorded behind each op
  kernels::Event posting_{};          ///< on the stream of computation
  uint64_t posted_ = 0, waited_ = 0;
  mutable uint64_t done_ = 0;
  int exceptions_;
  bool abandoned_ = false;
};

}  // namespace capstan
