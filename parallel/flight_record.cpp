#include "parallel/flight_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <type_traits>

namespace capstan {
namespace {

static_assert(std::is_trivially_copyable_v<FlightPosition>);
static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

template <size_t N>
bool ends(const std::array<char, N>& text) {
  return std::find(text.begin(), text.end(), '\0') != text.end();
}

std::string place_in_step(const FlightPosition& at) {
  std::string text = at.label.plan.data();
  if (at.label.part[0] != '\0') text += fmt::format(" {}", at.label.part.data());
  if (at.microbatch >= 0) text += fmt::format(", microbatch {}", at.microbatch);
  if (at.label.chunk > 0) text += fmt::format(", chunk {}", at.label.chunk);
  return text;
}

std::string op_text(const char* op, const char* detail, int layer, bool plain) {
  std::string text = op;
  if (*detail != '\0') text += plain ? fmt::format(" {}", detail) : fmt::format(" ({})", detail);
  if (layer >= 0) text += fmt::format(", layer {}", layer);
  return text;
}

std::string on_device(const FlightPosition& at) {
  const bool single = at.last_op[0] == '\0';
  const std::string first =
      op_text(at.label.op.data(), at.label.detail.data(), at.label.layer, single && at.state == FlightState::waiting);
  return fmt::format("on the GPU,{} {}{}", at.place == FlightPlace::device_or_before ? " before or" : "",
                     single ? "in " + first : "from " + first + ", to ",
                     single ? "" : op_text(at.last_op.data(), at.last_detail.data(), at.last_layer, false));
}

}  // namespace

const char* name_of(Phase phase) {
  constexpr const char* names[] = {"start", "data", "step", "evaluation", "checkpoint", "log", "end"};
  return names[static_cast<int>(phase)];
}

void copy_text(const std::string& from, char* to, size_t bytes) {
  const size_t length = std::min(from.size(), bytes - 1);
  std::memcpy(to, from.data(), length);
  std::memset(to + length, 0, bytes - length);
}

bool is_sound(const FlightPosition& at) {
  return static_cast<int>(at.phase) < kPhaseCount && at.state <= FlightState::waiting &&
         at.place <= FlightPlace::device_or_before && ends(at.label.plan) && ends(at.label.part) && ends(at.label.op) &&
         ends(at.label.detail) && ends(at.last_op) && ends(at.last_detail);
}

std::string FlightPosition::describe() const {
  std::string text = label.plan[0] != '\0' ? place_in_step(*this) : name_of(phase);
  if (label.op[0] == '\0') return text;
  if (place != FlightPlace::host) return text + ": " + on_device(*this);
  text += fmt::format(": {}{}", state == FlightState::between ? "after " : "", label.op.data());
  if (label.detail[0] != '\0')
    text += state == FlightState::working ? fmt::format(" ({})", label.detail.data())
                                          : fmt::format(" {}", label.detail.data());
  if (label.layer >= 0) text += fmt::format(", layer {}", label.layer);
  return text;
}

int64_t unix_milliseconds() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void FlightRecord::begin(int own_rank, int all_ranks) {
  magic = kMagic;
  rank = own_rank, ranks = all_ranks, pid = ::getpid();
  gethostname(host.data(), host.size() - 1);
  started = unix_milliseconds();
  moved = started, alive = started, ended = 0;
}

void FlightCell::write(const FlightPosition& position) {
  const uint64_t next = number_.load(std::memory_order_relaxed) + 1;
  std::array<uint64_t, kWords> words;
  std::memcpy(words.data(), &position, sizeof position);
  Slot& slot = slots_[next % 2];
  for (size_t i = 0; i < kWords; ++i) slot[i].store(words[i], std::memory_order_relaxed);
  number_.store(next, std::memory_order_release);
}

FlightPosition FlightCell::read() const {
  std::array<uint64_t, kWords> words{};
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const uint64_t number = number_.load(std::memory_order_acquire);
    const Slot& slot = slots_[number % 2];
    for (size_t i = 0; i < kWords; ++i) words[i] = slot[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (number_.load(std::memory_order_relaxed) == number) break;
  }
  FlightPosition position;
  std::memcpy(static_cast<void*>(&position), words.data(), sizeof position);
  return is_sound(position) ? position : FlightPosition{};
}

FlightPosition FlightRecord::read() const {
  const FlightPosition device = device_.read();
  return device.place != FlightPlace::host ? device : host_position();
}

std::shared_ptr<FlightRecord> map_flight_record(const std::filesystem::path& file, std::string& why) {
  const auto failed = [&](const char* what, int error) {
    why = fmt::format("{} {}: {}", what, file.string(), std::strerror(error));
    return nullptr;
  };
  const Descriptor opened(::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (opened.get() < 0) return failed("cannot create", errno);
  // Without blocks of its own a page of the mapping would fail at a store, as a signal, when the disk is full.
  if (const int error = posix_fallocate(opened.get(), 0, sizeof(FlightRecord)); error != 0)
    return failed("cannot reserve", error);
  void* memory = mmap(nullptr, sizeof(FlightRecord), PROT_READ | PROT_WRITE, MAP_SHARED, opened.get(), 0);
  if (memory == MAP_FAILED) return failed("cannot map", errno);
  return {new (memory) FlightRecord, [](FlightRecord* record) { munmap(record, sizeof *record); }};
}

std::optional<FlightFile> read_flight_file(const std::filesystem::path& file) {
  const Descriptor opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (opened.get() < 0) return std::nullopt;
  alignas(FlightRecord) std::array<std::byte, sizeof(FlightRecord)> bytes;
  if (::pread(opened.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return std::nullopt;
  FlightRecord record;
  std::memcpy(static_cast<void*>(&record), bytes.data(), bytes.size());
  if (record.magic != FlightRecord::kMagic || !ends(record.host) || record.rank < 0 || record.rank >= record.ranks)
    return std::nullopt;
  return FlightFile{record.rank,  record.ranks, record.pid,   record.host.data(), record.started,
                    record.moved, record.alive, record.ended, record.read()};
}

}  // namespace capstan
