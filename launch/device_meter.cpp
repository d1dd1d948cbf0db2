#include "launch/device_meter.h"

#include <cmath>

namespace capstan {

namespace {

void add_number(MetricsLine& line, const char* name, double value) {
  if (std::isfinite(value)) line.push_back({name, value});
}

/// Where there is one GPU its own values say it all.
void add_extremes(MetricsLine& line, const GpuSummary& all) {
  if (all.ranks < 2) return;
  line.push_back({"gpu_ranks", int64_t{all.ranks}});
  add_number(line, "gpu_memory_bytes_max", all.most_memory_bytes);
  add_number(line, "gpu_clock_mhz_min", all.slowest_clock_mhz);
  add_number(line, "gpu_temperature_max", all.hottest);
  if (!all.throttled.empty()) line.push_back({"gpu_throttled_ranks", all.throttled});
}

}  // namespace

void DeviceMeter::add_to(MetricsLine& line, Clock::time_point now) {
  if (!ask_ || now < next_) return;
  next_ = now + std::chrono::seconds(1);
  const kernels::DeviceState state = ask_();
  add_number(line, "gpu_memory_bytes", state.memory_used_bytes);
  add_number(line, "gpu_clock_mhz", state.clock_mhz);
  add_number(line, "gpu_temperature", state.temperature);
  add_number(line, "gpu_watts", state.watts);
  if (!state.throttled.empty()) line.push_back({"gpu_throttled", state.throttled});
  if (board_ == nullptr) return;
  board_->tell(reading_of(state));
  if (const auto all = board_->all()) add_extremes(line, *all);
}

}  // namespace capstan
