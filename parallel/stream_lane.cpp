#include "parallel/stream_lane.h"

#include <exception>

namespace capstan {
namespace {

constexpr size_t kEvents = 4096;  ///< ops posted and not done

/// Keeps something for as long as the process lives.
void keep_for_ever(std::shared_ptr<void> what) {
  // Nobody knows when its user is done.
  if (what) static_cast<void>(std::make_unique<std::shared_ptr<void>>(std::move(what)).release());
}

}  // namespace

StreamLane::StreamLane(kernels::DeviceRuntime& device, kernels::Stream lane, kernels::Stream computation,
                       std::shared_ptr<const AxisGroups> groups)
    : device_(device),
      lane_(lane),
      computation_(computation),
      groups_(std::move(groups)),
      posting_(device.make_event()),
      exceptions_(std::uncaught_exceptions()) {
  for (size_t i = 0; i < kEvents; ++i) ring_.push_back(device.make_event());
}

/// What was posted runs to its end, unless the rank has failed.
StreamLane::~StreamLane() {
  if (abandoned_ || std::uncaught_exceptions() > exceptions_) return;
  try {
    device_.finish(lane_);
  } catch (const std::exception&) {  // the device is lost: nothing runs there any more
  }
}

uint64_t StreamLane::post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) {
  if (posted_ - done_ == ring_.size() && posted_ - done() == ring_.size()) device_.finish(event_of(posted_ + 1));
  device_.record(posting_, computation_);
  device_.wait(lane_, posting_);
  RunArgs on_lane = args;
  on_lane.stream = lane_;
  run(on_lane);
  device_.record(event_of(++posted_), lane_);
  return posted_;
}

uint64_t StreamLane::done() const {
  while (done_ < posted_ && device_.is_past(ring_[static_cast<size_t>((done_ + 1) % ring_.size())])) ++done_;
  return done_;
}

/// The stream is in order, so one wait stands for all before it.
void StreamLane::wait(uint64_t number) {
  if (number <= waited_ || number <= done_) return;
  device_.wait(computation_, event_of(number));
  waited_ = number;
}

void StreamLane::abandon(std::shared_ptr<void> needed) {
  abandoned_ = true;
  keep_for_ever(std::move(needed));
  keep_for_ever(std::const_pointer_cast<AxisGroups>(groups_));
}

}  // namespace capstan
