#pragma once
// FlightRecord: where one rank stands, in a page of memory that outlives it when it is mapped from a file. The clever
// thing: a position is written into the one of two slots that nobody reads and then made known by one store of its
// number, so that a rank notes every op it enters for the price of a few stores, and whoever reads the page, another
// thread or a command long after a crash, never sees half a position. Where the rank's device is behind what the host
// has queued, a second position says where it stands, as the monitor thread last saw it.
// Rule: one thread writes the host's positions; the device's, `moved` and `alive` belong to the monitor thread.

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace capstan {

/// What a rank is about, from outside: each has its own limit of how long it may stand still.
enum class Phase : uint8_t { start, data, step, evaluate, save, log, end };
constexpr int kPhaseCount = 7;
const char* name_of(Phase phase);

/// Who stands there: the host, or its device, at work on what was queued before. `device_or_before`: the device, in
/// what is still known of a queue that is very long.
enum class FlightPlace : uint8_t { host, device, device_or_before };

/// Where in an op: between two of them, at work in it, or in a collective, where it may wait for others.
enum class FlightState : uint8_t { between, working, waiting };

/// What a node of a plan is called. Texts end in a zero; longer ones are cut.
struct FlightLabel {
  std::array<char, 12> plan{}, part{};
  std::array<char, 24> op{};
  std::array<char, 48> detail{};  ///< of a collective its axis and placements; of others the tensor that they make
  int32_t layer = -1;
  int32_t chunk = 0;
};

/// Trivially copyable: it is what lies in files and goes over the wire.
struct FlightPosition {
  FlightLabel label;
  /// Of a stretch of ops that the device has not finished: the last of them; empty: it is one op.
  std::array<char, 24> last_op{};
  std::array<char, 48> last_detail{};
  int32_t last_layer = -1;
  int32_t unused_too = 0;
  int64_t step = 0;         ///< steps done before the one at hand
  int64_t microbatch = -1;  ///< -1: none
  uint64_t collectives = 0;
  Phase phase = Phase::start;
  FlightState state = FlightState::between;
  FlightPlace place = FlightPlace::host;
  std::array<uint8_t, 5> unused{};

  /// "train forward, microbatch 2: matmul (blocks.3.attention.q), layer 3", or "train forward, microbatch 2: on the
  /// GPU, from norm (blocks.0.norm), layer 0, to add (blocks.3.out), layer 3"
  std::string describe() const;
};

/// False for bytes that no writer of positions made.
bool is_sound(const FlightPosition& position);
void copy_text(const std::string& from, char* to, size_t bytes);

/// A position that one thread writes and any may read.
class FlightCell {
 public:
  void write(const FlightPosition& position);
  uint64_t written() const { return number_.load(std::memory_order_acquire); }
  FlightPosition read() const;

 private:
  static constexpr size_t kWords = sizeof(FlightPosition) / sizeof(uint64_t);
  static_assert(sizeof(FlightPosition) % sizeof(uint64_t) == 0);
  using Slot = std::array<std::atomic<uint64_t>, kWords>;
  std::atomic<uint64_t> number_{0};
  std::array<Slot, 2> slots_{};
};

class FlightRecord {
 public:
  static constexpr std::array<char, 8> kMagic{'c', 'a', 'p', 'f', 'l', 'y', '0', '2'};

  void begin(int rank, int ranks);
  void write(const FlightPosition& position) { host_.write(position); }  ///< counts as a move
  uint64_t moves() const { return host_.written(); }
  FlightPosition host_position() const { return host_.read(); }
  /// One whose place is the host says that the device is behind nothing.
  void write_device(const FlightPosition& position) { device_.write(position); }
  /// The device's, where it was seen at work on what the host has left behind, else the host's.
  FlightPosition read() const;

  std::array<char, 8> magic{};
  int32_t rank = 0, ranks = 0, pid = 0, unused = 0;
  std::array<char, 64> host{};
  int64_t started = 0;            ///< Unix time in milliseconds, like the next two
  std::atomic<int64_t> moved{0};  ///< when the monitor thread last saw another position
  std::atomic<int64_t> alive{0};  ///< when the monitor thread last looked
  std::atomic<int64_t> ended{0};  ///< the run left in order
 private:
  FlightCell host_, device_;
};

/// Maps a record from a file that is made for it, with its bytes reserved on the disk. Null where that is not possible
/// (full disk, a file system without shared mappings); `why` then says so.
std::shared_ptr<FlightRecord> map_flight_record(const std::filesystem::path& file, std::string& why);

/// What a file holds, whoever left it there.
struct FlightFile {
  int rank = 0, ranks = 0, pid = 0;
  std::string host;
  int64_t started = 0, moved = 0, alive = 0, ended = 0;
  FlightPosition position;
};
/// Nothing when there is no file or it is not a sound record.
std::optional<FlightFile> read_flight_file(const std::filesystem::path& file);

int64_t unix_milliseconds();

}  // namespace capstan
