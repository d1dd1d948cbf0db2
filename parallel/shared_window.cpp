#include "parallel/shared_window.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "parallel/shared_window_copy.h"

namespace capstan {
namespace {

using Word = std::atomic<uint64_t>;
static_assert(Word::is_always_lock_free, "words shared between processes must not need a lock");

constexpr size_t kCacheLine = 128;  // two lines: neighbours are prefetched in pairs
constexpr size_t kPage = 4096;
constexpr uint64_t kCells = 2;
constexpr size_t kCellHeader = 64;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

uint64_t pack(const CallSignature& s, bool inside) {
  return uint64_t{s.kind} | uint64_t{static_cast<uint8_t>(s.dtype)} << 8 | uint64_t{s.variant} << 16 |
         uint64_t{inside} << 24 | uint64_t{static_cast<uint32_t>(s.peer)} << 32;
}

CallSignature unpack(uint64_t what, uint64_t count) {
  CallSignature s;
  s.kind = static_cast<CallSignature::Kind>(what & 0xff);
  s.dtype = static_cast<DType>(what >> 8 & 0xff);
  s.variant = static_cast<uint8_t>(what >> 16 & 0xff);
  s.peer = static_cast<int>(what >> 32);
  s.count = count;
  return s;
}

bool is_inside(uint64_t what) { return (what >> 24 & 1) != 0; }

}  // namespace

struct SharedWindow::Line {
  alignas(kCacheLine) Word arrived;                // the last round this rank has announced
  alignas(kCacheLine) Word what[2], arguments[2];  // signature of collective c in half c % 2
  Word now_what, now_count, now_call, world_rank;  // where the rank stands, for the report of a hang
};

struct SharedWindow::Mailbox {
  alignas(kCacheLine) Word written;  // cells, by the sender
  alignas(kCacheLine) Word read;     // cells, by the receiver
};

std::string CallSignature::describe() const {
  constexpr const char* names[] = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast",
                                   "barrier",    "split",          "shift",      "send",       "receive"};
  const char* name = kind <= receive ? names[kind] : "unknown call";
  switch (kind) {
    case all_reduce:
    case reduce_scatter:
      return fmt::format("{} of {} x {} ({}, {})", name, count, name_of(dtype), variant & 1 ? "max" : "sum",
                         variant & 2 ? "ordered" : "fast");
    case all_gather:
    case all_to_all:
      return fmt::format("{} of {} x {}", name, count, name_of(dtype));
    case broadcast:
      return fmt::format("broadcast of {} bytes from rank {}", count, peer);
    case shift:
      return fmt::format("shift of {} bytes by {}", count, peer);
    case send:
    case receive:
      return fmt::format("{} of {} bytes {} rank {}", name, count, kind == send ? "to" : "from", peer);
    default:
      return name;
  }
}

size_t SharedWindow::Shape::bytes() const {
  const size_t n = static_cast<size_t>(ranks);
  const size_t control = round_up(n * sizeof(Line) + n * n * sizeof(Mailbox), kPage);
  return control + n * 4 * round_up(slot_bytes, kPage) + n * n * kCells * (kCellHeader + cell_bytes);
}

SharedWindow::SharedWindow(std::shared_ptr<void> memory, Shape shape, int rank, int world_rank, WaitPolicy policy)
    : memory_(std::move(memory)), shape_(shape), rank_(rank), policy_(std::move(policy)) {
  CAPSTAN_CHECK(rank >= 0 && rank < shape.ranks, "rank {} of {}", rank, shape.ranks);
  line(rank).world_rank.store(static_cast<uint64_t>(world_rank), std::memory_order_relaxed);
}

SharedWindow::Line& SharedWindow::line(int rank) const { return static_cast<Line*>(memory_.get())[rank]; }

SharedWindow::Mailbox& SharedWindow::mailbox(int from, int to) const {
  auto* first = reinterpret_cast<Mailbox*>(&line(shape_.ranks));
  return first[from * shape_.ranks + to];
}

std::byte* SharedWindow::half(int rank, int area, uint64_t round) const {
  const size_t n = static_cast<size_t>(shape_.ranks), stride = round_up(shape_.slot_bytes, kPage);
  const size_t control = round_up(n * sizeof(Line) + n * n * sizeof(Mailbox), kPage);
  const size_t index = static_cast<size_t>(rank) * 4 + static_cast<size_t>(area) * 2 + (round & 1);
  return static_cast<std::byte*>(memory_.get()) + control + index * stride;
}

std::byte* SharedWindow::cell(int from, int to, uint64_t number) const {
  const size_t n = static_cast<size_t>(shape_.ranks);
  const size_t index = (static_cast<size_t>(from) * n + static_cast<size_t>(to)) * kCells + number % kCells;
  const size_t mailboxes = shape_.bytes() - n * n * kCells * (kCellHeader + shape_.cell_bytes);
  return static_cast<std::byte*>(memory_.get()) + mailboxes + index * (kCellHeader + shape_.cell_bytes);
}

std::byte* SharedWindow::slot(int rank, int area) const { return half(rank, area, round_); }
std::byte* SharedWindow::last_slot(int rank, int area) const { return half(rank, area, round_ - 1); }

int SharedWindow::world_rank(int rank) const {
  return static_cast<int>(line(rank).world_rank.load(std::memory_order_relaxed));
}

void SharedWindow::note(const CallSignature& call, bool inside) {
  Line& mine = line(rank_);
  mine.now_call.store(calls_, std::memory_order_relaxed);
  mine.now_count.store(call.count, std::memory_order_relaxed);
  mine.now_what.store(pack(call, inside), std::memory_order_relaxed);
}

void SharedWindow::begin(const CallSignature& call) {
  if (policy_.fault) policy_.fault->throw_if_raised();
  ++calls_;
  ++collectives_;
  call_ = call;
  compared_ = false;
  Line& mine = line(rank_);
  mine.what[collectives_ & 1].store(pack(call, true), std::memory_order_relaxed);
  mine.arguments[collectives_ & 1].store(call.count, std::memory_order_relaxed);
  note(call, true);
}

void SharedWindow::begin_round() { ++round_; }

void SharedWindow::finish_round() {
  line(rank_).arrived.store(round_, std::memory_order_release);
  for (int r = 0; r < shape_.ranks; ++r)
    if (r != rank_) wait([&] { return line(r).arrived.load(std::memory_order_acquire) >= round_; });
  if (!compared_) compare_signatures();
  compared_ = true;
}

void SharedWindow::end() { note(call_, false); }

// Safe to read: nobody overwrites the signature of call c before c + 2, and nobody enters c + 2 before all end c.
void SharedWindow::compare_signatures() const {
  for (int r = 0; r < shape_.ranks; ++r) {
    const CallSignature theirs = unpack(line(r).what[collectives_ & 1].load(std::memory_order_relaxed),
                                        line(r).arguments[collectives_ & 1].load(std::memory_order_relaxed));
    if (theirs == call_) continue;
    throw Error::make(ExitCode::internal,
                      "collective call {} of a group of {}: rank {} makes {}, but rank {} makes {}; all ranks of a "
                      "group must make the same calls in the same order",
                      collectives_, shape_.ranks, world_rank(rank_), call_.describe(), world_rank(r),
                      theirs.describe());
  }
}

template <typename Ready>
void SharedWindow::wait(Ready ready) const {
  Waiter waiter(policy_);
  while (!ready())
    if (!waiter.pause()) throw Error(ExitCode::peer_lost, where_everybody_stands(waiter.seconds()));
}

std::string SharedWindow::where_everybody_stands(double seconds) const {
  std::string text =
      fmt::format("hang: rank {} has waited {:.1f} s in a group of {}:", world_rank(rank_), seconds, shape_.ranks);
  for (int r = 0; r < shape_.ranks; ++r) {
    const uint64_t what = line(r).now_what.load(std::memory_order_relaxed);
    const uint64_t call = line(r).now_call.load(std::memory_order_relaxed);
    const std::string name = unpack(what, line(r).now_count.load(std::memory_order_relaxed)).describe();
    if (call == 0)
      text += fmt::format(" rank {} has made no call yet;", world_rank(r));
    else if (is_inside(what))
      text += fmt::format(" rank {} is in call {}, {};", world_rank(r), call, name);
    else
      text += fmt::format(" rank {} is outside, its last was call {}, {};", world_rank(r), call, name);
  }
  text.back() = '.';
  return text;
}

void SharedWindow::send(const void* data, size_t bytes, int to) {
  CAPSTAN_CHECK(to >= 0 && to < shape_.ranks && to != rank_, "send from rank {} of {} to {}", rank_, shape_.ranks, to);
  if (policy_.fault) policy_.fault->throw_if_raised();
  ++calls_;
  const CallSignature call{CallSignature::send, DType::u8, 0, to, bytes};
  note(call, true);
  Mailbox& box = mailbox(rank_, to);
  size_t done = 0;
  do {
    const uint64_t number = box.written.load(std::memory_order_relaxed);
    wait([&] { return number - box.read.load(std::memory_order_acquire) < kCells; });
    const size_t piece = std::min(bytes - done, shape_.cell_bytes);
    std::byte* target = cell(rank_, to, number);
    const uint64_t header = bytes;
    std::memcpy(target, &header, sizeof header);
    copy_past_caches(target + kCellHeader, static_cast<const std::byte*>(data) + done, piece);
    box.written.store(number + 1, std::memory_order_release);
    done += piece;
  } while (done < bytes);
  note(call, false);
}

void SharedWindow::receive(void* data, size_t bytes, int from) {
  CAPSTAN_CHECK(from >= 0 && from < shape_.ranks && from != rank_, "receive by rank {} of {} from {}", rank_,
                shape_.ranks, from);
  if (policy_.fault) policy_.fault->throw_if_raised();
  ++calls_;
  const CallSignature call{CallSignature::receive, DType::u8, 0, from, bytes};
  note(call, true);
  Mailbox& box = mailbox(from, rank_);
  size_t done = 0;
  do {
    const uint64_t number = box.read.load(std::memory_order_relaxed);
    wait([&] { return box.written.load(std::memory_order_acquire) > number; });
    const std::byte* source = cell(from, rank_, number);
    uint64_t header = 0;
    std::memcpy(&header, source, sizeof header);
    if (header != bytes)
      throw Error::make(ExitCode::internal, "rank {} wants {} bytes from rank {}, which sends {}", world_rank(rank_),
                        bytes, world_rank(from), header);
    const size_t piece = std::min(bytes - done, shape_.cell_bytes);
    if (piece > 0) std::memcpy(static_cast<std::byte*>(data) + done, source + kCellHeader, piece);
    box.read.store(number + 1, std::memory_order_release);
    done += piece;
  } while (done < bytes);
  note(call, false);
}

}  // namespace capstan
