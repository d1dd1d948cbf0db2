#include "launch/device_meter.h"

#include <cmath>

namespace capstan {

void DeviceMeter::add_to(MetricsLine& line, Clock::time_point now) {
  if (!ask_ || now < next_) return;
  next_ = now + std::chrono::seconds(1);
  const kernels::DeviceState state = ask_();
  const std::pair<const char*, double> values[] = {{"gpu_memory_bytes", state.memory_used_bytes},
                                                   {"gpu_clock_mhz", state.clock_mhz},
                                                   {"gpu_temperature", state.temperature},
                                                   {"gpu_watts", state.watts}};
  for (const auto& [name, value] : values)
    if (std::isfinite(value)) line.push_back({name, value});
  if (!state.throttled.empty()) line.push_back({"gpu_throttled", state.throttled});
}

}  // namespace capstan
