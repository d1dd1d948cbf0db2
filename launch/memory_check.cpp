#include "launch/memory_check.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>
#include <sstream>

#include "core/config/config_checks.h"
#include "core/config/parameter_count.h"
#include "core/failpoint.h"
#include "core/training_program.h"
#include "launch/background_save.h"
#include "launch/console.h"
#include "launch/host_memory.h"
#include "launch/joint_error.h"
#include "launch/training_setup.h"
#include "parallel/hang_judge.h"
#include "parallel/heartbeat_addresses.h"

namespace capstan {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kTrust = 0.95;        // what is found to be left may be wrong by a twentieth
constexpr double kSearchSeconds = 15;  // for layouts that fit
constexpr size_t kOffers = 3;

/// A host, or a control group on it, and its ranks.
struct Room {
  std::string host;   ///< identity
  std::string group;  ///< empty: the host itself
  double there = 0;
  std::vector<int> ranks;
};

struct Rooms {
  std::vector<Room> all;
  std::vector<MemoryNeed> needs;  ///< of each rank
  /// Whether plans lie in the memory of hosts: not where all ranks have a GPU.
  bool hold_plans() const {
    return std::any_of(needs.begin(), needs.end(), [](const MemoryNeed& need) { return need.plan > 0; });
  }
};

/// The search for layouts that fit, which ends, and shows the watch that it moves.
class Search {
 public:
  explicit Search(FlightRecorder& recorder) : recorder_(recorder), begun_(Clock::now()) {}

  /// Before each step of it; false: its time is over.
  bool goes_on() {
    recorder_.phase(Phase::start, 0);
    cut_ = cut_ || Clock::now() - begun_ > std::chrono::duration<double>(kSearchSeconds);
    return !cut_;
  }
  bool cut() const { return cut_; }

 private:
  using Clock = std::chrono::steady_clock;
  FlightRecorder& recorder_;
  Clock::time_point begun_;
  bool cut_ = false;
};

/// One line of a rank's own needs, one for each limit that it is under: bytes, host, group with its inode, since
/// containers that share the host's network see groups of their own under equal paths.
std::string told_of(const RunConfig& config, const MemoryNeed& own) {
  std::string text = fmt::format("{} {} {} {}\n", own.plan, own.copy, own.outside, own.shared);
  const std::string host = host_identity();
  if (config.train.host_memory_gib > 0)
    return text + fmt::format("{} {}\t0\t\n", config.train.host_memory_gib * kGiB, host);
  for (const MemoryLimit& limit : memory_limits())
    text += fmt::format("{} {}\t{}\t{}\n", limit.bytes / kTrust, host, limit.inode, limit.group);
  return text;
}

Rooms rooms_of(const std::vector<std::string>& told) {
  Rooms rooms;
  std::map<std::string, size_t> index;
  for (size_t rank = 0; rank < told.size(); ++rank) {
    std::istringstream in(told[rank]);
    MemoryNeed need;
    in >> need.plan >> need.copy >> need.outside >> need.shared;
    rooms.needs.push_back(need);
    double bytes = 0;
    std::string name;
    while (in >> bytes && in.get() == ' ' && std::getline(in, name)) {
      const auto [found, added] = index.emplace(name, rooms.all.size());
      const size_t tab = name.find('\t'), second = name.find('\t', tab + 1);
      if (added) rooms.all.push_back({name.substr(0, tab), name.substr(second + 1), 0, {}});
      Room& room = rooms.all[found->second];
      room.there = std::max(room.there, bytes);
      room.ranks.push_back(static_cast<int>(rank));
    }
  }
  return rooms;
}

double needed_in(const Room& room, const std::vector<MemoryNeed>& needs) {
  double sum = 0;
  for (const int rank : room.ranks) {
    const MemoryNeed& need = needs[static_cast<size_t>(rank)];
    sum += need.plan + need.copy + need.outside + need.shared;
  }
  return sum;
}

/// The room that lacks most, or none.
const Room* tightest(const Rooms& rooms, const std::vector<MemoryNeed>& needs) {
  const Room* worst = nullptr;
  double most = 1.0;
  for (const Room& room : rooms.all) {
    const double share = needed_in(room, needs) / std::max(room.there, 1.0);
    if (share > most) most = share, worst = &room;
  }
  return worst;
}

/// Other settings of a run, and how far they are from those asked for.
struct Candidate {
  RunConfig config;
  std::vector<std::string> changes;
  double distance = 0;

  void change(const std::string& text, double by) { changes.push_back(text), distance += by; }
};

using Candidates = std::vector<Candidate>;

/// Each candidate as it is, and as each alternative makes it.
template <typename Alternatives>
Candidates with_each(const Candidates& before, Search& search, Alternatives&& alternatives) {
  Candidates all = before;
  for (const Candidate& candidate : before) {
    if (!search.goes_on()) break;
    alternatives(candidate, all);
  }
  return all;
}

void recompute_more(const Candidate& from, Candidates& to) {
  using Kind = RecomputeConfig::Kind;
  const Kind now = from.config.layout.recompute.kind;
  const auto add = [&](Kind kind, const char* text, double by) {
    Candidate next = from;
    next.config.layout.recompute = {kind, 0};
    next.change(text, by);
    to.push_back(std::move(next));
  };
  if (now == Kind::none) add(Kind::selective, "layout.recompute=selective", 1.0);
  if (now != Kind::full) add(Kind::full, "layout.recompute=full", 2.0);
}

void smaller_microbatch(const Candidate& from, Candidates& to) {
  double by = 0.8;
  for (int64_t micro = from.config.train.microbatch / 2; micro >= 1; micro /= 2, by += 0.4) {
    Candidate next = from;
    next.config.train.microbatch = micro;
    next.change(fmt::format("train.microbatch={}", micro), by);
    to.push_back(std::move(next));
  }
}

void more_zero(const Candidate& from, Candidates& to) {
  for (int zero = from.config.layout.zero + 1; zero <= 3 && from.config.layout.dp > 1; ++zero) {
    Candidate next = from;
    next.config.layout.zero = zero;
    next.change(fmt::format("layout.zero={}", zero), 1.0 + 0.3 * zero);
    to.push_back(std::move(next));
  }
}

std::vector<int> divisors_of(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor)
    if (number % divisor == 0) divisors.push_back(divisor);
  return divisors;
}

/// The same ranks, more of which divide the model.
void divided_further(const Candidate& from, Candidates& to) {
  const LayoutConfig& layout = from.config.layout;
  const std::vector<int> divisors = divisors_of(layout.dp);
  for (const int tensors : divisors)
    for (const int stages : divisors) {
      if (tensors * stages == 1 || layout.dp / tensors % stages != 0) continue;
      Candidate next = from;
      LayoutConfig& now = next.config.layout;
      now.tp *= tensors, now.pp *= stages, now.dp = layout.dp / tensors / stages;
      if (tensors > 1) next.change(fmt::format("layout.tp={}", now.tp), 2.0 + 0.1 * tensors);
      if (stages > 1) next.change(fmt::format("layout.pp={}", now.pp), 2.0 + 0.1 * stages);
      next.change(fmt::format("layout.dp={}", now.dp), 0);
      to.push_back(std::move(next));
    }
}

Candidates nearby(const RunConfig& config, Search& search) {
  Candidates all{{config, {}, 0}};
  all = with_each(all, search, recompute_more);
  all = with_each(all, search, smaller_microbatch);
  all = with_each(all, search, divided_further);
  all = with_each(all, search, more_zero);
  all.erase(all.begin());  // what was asked for
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.distance < b.distance; });
  return all;
}

/// What the copy of a checkpoint, and masters, moments and gradients where hosts hold plans, take of the memory of all
/// hosts together at the least.
double state_bytes(const RunConfig& config, bool hold_plans) {
  const LayoutConfig& layout = config.layout;
  const double master = config.train.precision == TrainConfig::Precision::fp64 ? 8 : 4;
  const double copies = layout.dp, shards = layout.shard_group();
  const double parameters = static_cast<double>(parameter_count(config.model));
  const double plans = 3 * copies / (layout.zero >= 1 ? shards : 1) + copies / (layout.zero >= 2 ? shards : 1);
  return parameters * master * (3 + (hold_plans ? plans : 0));
}

/// Needs of each rank under other settings: one rank of each stage is planned, the others of a stage are like it. What
/// lies outside of plans, and the windows, stay those of the layout that was asked for: they are small, and differ
/// little. Nothing when the time of the search ends before the last stage.
std::optional<std::vector<MemoryNeed>> needs_of(const Candidate& candidate, const Rooms& rooms, Search& search) {
  const RunConfig& config = candidate.config;
  const kernels::Backend backend = planning_backend(config.train);
  const TrainingSpec spec = training_spec(config, true);
  std::vector<MemoryNeed> needs = rooms.needs;
  const int stages = config.layout.pp, ranks = static_cast<int>(needs.size()) / stages;  // pp is outermost
  for (int stage = 0; stage < stages; ++stage) {
    failpoint("train.offer");
    if (!search.goes_on()) return std::nullopt;
    const TrainingProgram training(mesh_of(config.layout, stage * ranks), Device{&backend, {}}, spec);
    const Program& program = training.program();
    for (int rank = stage * ranks; rank < (stage + 1) * ranks; ++rank) {
      MemoryNeed& need = needs[static_cast<size_t>(rank)];
      if (need.plan > 0) need.plan = static_cast<double>(program.persistent_bytes() + program.transient_bytes());
      need.copy = static_cast<double>(BackgroundSave::copy_bytes(training));
    }
  }
  return needs;
}

bool fits(Candidate& candidate, const Rooms& rooms, double there, Search& search) {
  if (there < state_bytes(candidate.config, rooms.hold_plans())) return false;
  try {
    if (!config_conflicts(candidate.config).empty()) return false;
    check_for_world(candidate.config, static_cast<int>(rooms.needs.size()));
    const auto needs = needs_of(candidate, rooms, search);
    return needs && tightest(rooms, *needs) == nullptr;
  } catch (const Error&) {  // no layout of this model
    return false;
  }
}

/// Whether it changes all the keys that one found before changes: further, or others with them.
bool goes_beyond(const Candidate& candidate, const Candidate& found) {
  return std::all_of(found.changes.begin(), found.changes.end(), [&](const std::string& change) {
    const std::string_view key(change.data(), change.find('=') + 1);
    return std::any_of(candidate.changes.begin(), candidate.changes.end(),
                       [&](const std::string& other) { return other.starts_with(key); });
  });
}

/// Of all hosts together, and how many they are. A group that holds all ranks of a host is a limit of the host.
std::pair<double, int> all_there(const Rooms& rooms) {
  std::map<std::string, std::pair<size_t, double>> hosts;
  for (const Room& room : rooms.all) {
    auto& [ranks, there] = hosts.emplace(room.host, std::pair(room.ranks.size(), room.there)).first->second;
    if (room.ranks.size() == ranks) there = std::min(there, room.there);
  }
  double sum = 0;
  for (const auto& [host, left] : hosts) sum += left.second;
  return {sum, static_cast<int>(hosts.size())};
}

/// Why no layout was offered.
std::string without_offers(const RunConfig& config, const Rooms& rooms, double there, int hosts, bool cut) {
  RunConfig thrifty = config;
  thrifty.layout.zero = 3, thrifty.layout.zero_ranks = 0;
  const bool plans = rooms.hold_plans();
  const double least = state_bytes(thrifty, plans);
  if (least > there)
    return fmt::format(
        "no layout of these ranks fits: {}the copy of a checkpoint alone {} {}, so at least {:.0f} such hosts are "
        "needed{}; or a smaller model",
        plans ? "parameters, gradients, moments and " : "", plans ? "are" : "is", bytes_text(least),
        std::ceil(least / (there / hosts)),
        plans ? ", with the model divided over all of them (layout.tp, layout.pp, or layout.zero=3)" : "");
  return fmt::format(
      "no other layout of these ranks was found to fit{}: start more ranks on more hosts, or lower model.context or "
      "the "
      "size of the model",
      cut ? fmt::format(" in the {:.0f} s after which the search ended, with layouts left to try", kSearchSeconds)
          : "");
}

std::string offers(const RunConfig& config, const Rooms& rooms, FlightRecorder& recorder) {
  Search search(recorder);
  const auto [there, hosts] = all_there(rooms);
  std::vector<Candidate> found;
  for (Candidate& candidate : nearby(config, search)) {
    if (found.size() == kOffers || !search.goes_on()) break;
    const auto beyond = [&](const Candidate& one) { return goes_beyond(candidate, one); };
    if (std::none_of(found.begin(), found.end(), beyond) && fits(candidate, rooms, there, search))
      found.push_back(std::move(candidate));
  }
  if (found.empty()) return without_offers(config, rooms, there, hosts, search.cut());
  std::string text = "nearest that fits, as further settings:";
  for (const Candidate& one : found) text += fmt::format("\n  {}", fmt::join(one.changes, " "));
  return text;
}

std::string refusal(const RunConfig& config, const Rooms& rooms, const Room& room, FlightRecorder& recorder) {
  const MemoryNeed& first = rooms.needs[static_cast<size_t>(room.ranks.front())];
  const bool told = config.train.host_memory_gib > 0;
  return fmt::format(
      "the run does not fit into memory: on {} {} {} need{} {} ({} of plan, {} for the copy of a checkpoint and {} of "
      "samples and corpus on rank {}), and {} {}{}\n{}\nTo begin all the same, say what a host has: "
      "train.host_memory_gib=N",
      room.host.substr(0, room.host.find('/')), room.ranks.size() == 1 ? "rank" : "ranks", rank_list(room.ranks),
      room.ranks.size() == 1 ? "s" : "", bytes_text(needed_in(room, rooms.needs)), bytes_text(first.plan),
      bytes_text(first.copy), bytes_text(first.outside), room.ranks.front(),
      bytes_text(told ? room.there : room.there * kTrust),
      told ? "are granted by train.host_memory_gib" : "are left there",
      room.group.empty() ? "" : " by the limit of control group " + room.group, offers(config, rooms, recorder));
}

}  // namespace

void require_memory(const RunConfig& config, Communicator& world, FlightRecorder& recorder, const MemoryNeed& own) {
  const Rooms rooms = rooms_of(gather_strings(world, told_of(config, own)));
  const Room* lacks = tightest(rooms, rooms.needs);
  if (lacks == nullptr) return;
  // Rank 0 speaks: the others need no words, do not plan, and leave the watch.
  const std::string text = world.rank() == 0 ? refusal(config, rooms, *lacks, recorder) : "no memory";
  throw_jointly(world, Error(ExitCode::config, text));
}

}  // namespace capstan
