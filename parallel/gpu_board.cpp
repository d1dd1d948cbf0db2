#include "parallel/gpu_board.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "parallel/flight_record.h"
#include "parallel/hang_judge.h"

namespace capstan {

GpuReading reading_of(const kernels::DeviceState& state) {
  GpuReading reading{state.memory_used_bytes, state.clock_mhz, state.temperature, {}, 1};
  copy_text(state.throttled, reading.throttled.data(), reading.throttled.size());
  return reading;
}

bool is_sound(const GpuReading& reading) {
  const auto& why = reading.throttled;
  const auto end = std::find(why.begin(), why.end(), '\0');
  const auto plain = [](char c) { return c >= ' ' && c <= '~'; };
  return reading.told <= 1 && end != why.end() && std::all_of(why.begin(), end, plain);
}

GpuSummary summary_of(const std::vector<GpuReading>& readings) {
  GpuSummary all;
  std::map<std::string, std::vector<int>> reasons;
  for (size_t rank = 0; rank < readings.size(); ++rank) {
    const GpuReading& one = readings[rank];
    if (one.told == 0) continue;
    ++all.ranks;
    all.most_memory_bytes = std::fmax(all.most_memory_bytes, one.memory_bytes);  // of a number and NAN the number
    all.hottest = std::fmax(all.hottest, one.temperature);
    all.slowest_clock_mhz = std::fmin(all.slowest_clock_mhz, one.clock_mhz);
    if (one.throttled[0] != '\0') reasons[one.throttled.data()].push_back(static_cast<int>(rank));
  }
  for (const auto& [why, ranks] : reasons)
    all.throttled += fmt::format("{}{}: {}", all.throttled.empty() ? "" : "; ", why, rank_list(ranks));
  return all;
}

void GpuBoard::tell(const GpuReading& own) {
  const std::lock_guard lock(mutex_);
  own_ = own;
}

GpuReading GpuBoard::own() const {
  const std::lock_guard lock(mutex_);
  return own_;
}

void GpuBoard::publish(GpuSummary all) {
  const std::lock_guard lock(mutex_);
  all_ = std::move(all);
}

std::optional<GpuSummary> GpuBoard::all() const {
  const std::lock_guard lock(mutex_);
  return all_;
}

}  // namespace capstan
