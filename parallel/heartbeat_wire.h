#pragma once
// What goes over a heartbeat connection, as bytes of fixed size between processes of one binary: a hello with the key
// of the job and the answer to it, then reports from the rank and commands to it. Whoever does not know the keys, which
// rank 0 draws and the job's own communicator hands out, is not listened to.

#include <array>
#include <cstdint>
#include <type_traits>

#include "parallel/flight_record.h"
#include "parallel/gpu_board.h"

namespace capstan {

using HeartbeatKey = std::array<uint8_t, 16>;
struct HeartbeatKeys {
  HeartbeatKey of_ranks{}, of_watchers{};
};

struct HeartbeatHello {
  std::array<char, 16> magic{'c', 'a', 'p', 's', 't', 'a', 'n', ' ', 'h', 'e', 'a', 'r', 't', ' ', '2', 0};
  HeartbeatKey key{};
  int32_t rank = 0, pid = 0;
  std::array<char, 64> host{};
};

struct HeartbeatReport {
  enum Kind : uint64_t { standing = 1, goodbye = 2 };
  uint64_t kind = standing;
  double still = 0.0, limit = 0.0;  ///< seconds
  FlightPosition position;
  GpuReading gpu;
};

struct HeartbeatCommand {
  enum Kind : uint64_t { report_now = 1, end = 2 };
  uint64_t kind = report_now;
};

static_assert(std::is_trivially_copyable_v<HeartbeatHello> && std::is_trivially_copyable_v<HeartbeatReport>);

}  // namespace capstan
