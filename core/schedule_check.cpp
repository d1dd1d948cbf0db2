#include "core/schedule_check.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace capstan {
namespace {

using Kind = Action::Kind;

/// "stage 1", of a table out of a file with its line before it: "table.txt:2: stage 1".
std::string stage_name(const Schedule& schedule, int stage) {
  const size_t s = static_cast<size_t>(stage);
  const std::string place = s < schedule.places.size() ? schedule.places[s] + ": " : "";
  return fmt::format("{}stage {}", place, stage);
}

std::string at_stage(const Schedule& schedule, int stage, size_t place) {
  return fmt::format("{}, action {} ({})", stage_name(schedule, stage), place,
                     schedule.name_of(schedule.actions[static_cast<size_t>(stage)][place]));
}

[[noreturn]] void refuse(const std::string& what) { throw Error::make(ExitCode::config, "layout.schedule: {}", what); }

/// Every chunk has every microbatch once in each kind, and a stage does in order what depends on itself.
void check_stage(const Schedule& schedule, int stage) {
  const std::vector<Action>& actions = schedule.actions[static_cast<size_t>(stage)];
  const int kinds = schedule.splits_weights ? 3 : 2;
  std::map<std::pair<int, Kind>, std::vector<bool>> seen;
  std::map<std::pair<int, Kind>, int> last;
  for (size_t i = 0; i < actions.size(); ++i) {
    const Action& a = actions[i];
    const auto was = [&](Kind kind) {
      const auto found = seen.find({a.chunk, kind});
      return found != seen.end() && found->second[static_cast<size_t>(a.microbatch)];
    };
    const auto here = [&] { return at_stage(schedule, stage, i); };
    if (a.chunk < 0 || a.chunk >= schedule.chunks || schedule.stage_of(a.chunk) != stage)
      refuse(fmt::format("{}: chunk {} does not lie on this stage", here(), a.chunk));
    if (a.microbatch < 0 || a.microbatch >= schedule.microbatches)
      refuse(fmt::format("{}: a step has microbatches 0 to {}", here(), schedule.microbatches - 1));
    auto& mine = seen.try_emplace({a.chunk, a.kind}, static_cast<size_t>(schedule.microbatches)).first->second;
    if (mine[static_cast<size_t>(a.microbatch)]) refuse(here() + " comes twice");
    if (a.kind != Kind::forward && !was(static_cast<Kind>(static_cast<int>(a.kind) - 1)))
      refuse(fmt::format("{} comes before {}", here(),
                         schedule.name_of({static_cast<Kind>(static_cast<int>(a.kind) - 1), a.microbatch, a.chunk})));
    const auto before = last.find({a.chunk, a.kind});
    if (before != last.end() && before->second > a.microbatch)
      refuse(
          fmt::format("{} comes after that of microbatch {}: each kind goes through the microbatches in ascending "
                      "order, so that sums have the same bits under every schedule",
                      here(), before->second));
    last[{a.chunk, a.kind}] = a.microbatch;
    mine[static_cast<size_t>(a.microbatch)] = true;
  }
  for (int chunk = stage; chunk < schedule.chunks; chunk += schedule.stages)
    for (int kind = 0; kind < kinds; ++kind)
      for (int m = 0; m < schedule.microbatches; ++m) {
        const auto found = seen.find({chunk, static_cast<Kind>(kind)});
        if (found == seen.end() || !found->second[static_cast<size_t>(m)])
          refuse(fmt::format("{} never comes to {}", stage_name(schedule, stage),
                             schedule.name_of({static_cast<Kind>(kind), m, chunk})));
      }
}

/// Plays the table with bounded channels between the chunks, without time: what can go on does.
class Player {
 public:
  Player(const Schedule& schedule, int capacity)
      : schedule_(schedule),
        capacity_(capacity),
        next_(schedule.actions.size()),
        sent_(static_cast<size_t>(schedule.chunks) * 2),
        taken_(sent_.size()) {}

  void run() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (int stage = 0; stage < schedule_.stages; ++stage)
        while (!done(stage) && step(stage)) moved = true;
    }
    for (int stage = 0; stage < schedule_.stages; ++stage)
      if (!done(stage)) refuse("it stands still: " + ring_from(stage));
  }

 private:
  bool done(int stage) const { return next_[static_cast<size_t>(stage)] == list(stage).size(); }
  const std::vector<Action>& list(int stage) const { return schedule_.actions[static_cast<size_t>(stage)]; }
  const Action& current(int stage) const { return list(stage)[next_[static_cast<size_t>(stage)]]; }
  /// Channels: 2 c carries activations from chunk c to c + 1, 2 c + 1 gradients from chunk c + 1 to c.
  int in_channel(const Action& a) const {
    if (a.kind == Kind::forward) return a.chunk > 0 ? 2 * (a.chunk - 1) : -1;
    return a.kind == Kind::backward && a.chunk + 1 < schedule_.chunks ? 2 * a.chunk + 1 : -1;
  }
  int out_channel(const Action& a) const {
    if (a.kind == Kind::forward) return a.chunk + 1 < schedule_.chunks ? 2 * a.chunk : -1;
    return a.kind == Kind::backward && a.chunk > 0 ? 2 * (a.chunk - 1) + 1 : -1;
  }
  bool arrived(const Action& a) const {
    const int channel = in_channel(a);
    return channel < 0 || sent_[static_cast<size_t>(channel)] > a.microbatch;
  }
  bool fits(const Action& a) const {
    const int channel = out_channel(a);
    return channel < 0 || sent_[static_cast<size_t>(channel)] - taken_[static_cast<size_t>(channel)] < capacity_;
  }
  bool step(int stage) {
    const Action& a = current(stage);
    if (!arrived(a)) return false;
    if (const int channel = in_channel(a);
        channel >= 0 && !began_.contains({stage, next_[static_cast<size_t>(stage)]})) {
      ++taken_[static_cast<size_t>(channel)];
      began_[{stage, next_[static_cast<size_t>(stage)]}] = true;
    }
    if (!fits(a)) return false;
    if (const int channel = out_channel(a); channel >= 0) ++sent_[static_cast<size_t>(channel)];
    ++next_[static_cast<size_t>(stage)];
    return true;
  }
  /// The stage whose action this one waits for.
  int waits_for(int stage, std::string& why) const {
    const Action& a = current(stage);
    const bool full = arrived(a);
    const int chunk = (a.kind == Kind::forward) == full ? a.chunk + 1 : a.chunk - 1;
    const int other = schedule_.stage_of(chunk);
    const Action cause{a.kind, full ? a.microbatch - capacity_ : a.microbatch, chunk};
    why = fmt::format("{} waits for {} on stage {}{}", at_stage(schedule_, stage, next_[static_cast<size_t>(stage)]),
                      schedule_.name_of(cause), other,
                      full ? fmt::format(" (no more than {} messages fit between two chunks)", capacity_) : "");
    return other;
  }
  std::string ring_from(int stage) const {
    std::vector<bool> seen(static_cast<size_t>(schedule_.stages));
    std::string text;
    while (!seen[static_cast<size_t>(stage)] && !done(stage)) {
      seen[static_cast<size_t>(stage)] = true;
      std::string why;
      stage = waits_for(stage, why);
      text += (text.empty() ? "" : "; ") + why;
    }
    return text + (done(stage) ? fmt::format("; stage {} has nothing more to do", stage) : "");
  }

  const Schedule& schedule_;
  int capacity_;
  std::vector<size_t> next_;
  std::vector<int> sent_, taken_;
  std::map<std::pair<int, size_t>, bool> began_;
};

}  // namespace

void check(const Schedule& schedule, int capacity) {
  for (int stage = 0; stage < schedule.stages; ++stage) check_stage(schedule, stage);
  Player(schedule, capacity).run();
}

namespace {
const std::vector<Action>& actions_of(const Schedule& schedule, int chunk) {
  return schedule.actions[static_cast<size_t>(schedule.stage_of(chunk))];
}
}  // namespace

int under_way(const Schedule& schedule, int chunk, Kind from, Kind to) {
  int now = 0, most = 0;
  for (const Action& a : actions_of(schedule, chunk)) {
    if (a.chunk != chunk) continue;
    if (a.kind == from) most = std::max(most, ++now);
    if (a.kind == to) --now;
  }
  return most;
}

bool together(const Schedule& schedule, int chunk, Kind first, Kind second) {
  const std::vector<Action>& actions = actions_of(schedule, chunk);
  for (size_t i = 0; i < actions.size(); ++i)
    if (actions[i].chunk == chunk && actions[i].kind == first &&
        (i + 1 == actions.size() || !(actions[i + 1] == Action{second, actions[i].microbatch, chunk})))
      return false;
  return true;
}

int input_copies(const Schedule& schedule, int stage) {
  const std::vector<Action>& actions = schedule.actions[static_cast<size_t>(stage)];
  const size_t count = static_cast<size_t>(schedule.microbatches);
  std::vector<size_t> begin(count, actions.size()), end(count);
  for (size_t i = 0; i < actions.size(); ++i) {
    const size_t m = static_cast<size_t>(actions[i].microbatch);
    begin[m] = std::min(begin[m], i), end[m] = i;
  }
  size_t copies = 1;
  for (size_t m = 0; m < count; ++m)
    for (size_t later = m + copies; later < count; ++later)
      if (begin[later] < end[m]) copies = later - m + 1;
  return static_cast<int>(copies);
}

Makespan play(const Schedule& schedule, const std::array<double, 3>& price) {
  std::map<std::pair<int, int>, double> ended[2];  // by chunk and microbatch: forwards, backwards
  std::vector<size_t> next(schedule.actions.size());
  std::vector<double> clock(schedule.actions.size()), busy(schedule.actions.size());
  const auto known = [&](const Action& a, double& when) {
    const bool forward = a.kind == Kind::forward;
    if (a.kind == Kind::weights || (forward ? a.chunk == 0 : a.chunk + 1 == schedule.chunks)) return true;
    const auto found = ended[forward ? 0 : 1].find({a.chunk + (forward ? -1 : 1), a.microbatch});
    if (found == ended[forward ? 0 : 1].end()) return false;
    when = found->second;
    return true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t s = 0; s < next.size(); ++s)
      for (double when = 0.0; next[s] < schedule.actions[s].size() && known(schedule.actions[s][next[s]], when);
           when = 0.0) {
        const Action& a = schedule.actions[s][next[s]++];
        const double cost = price[static_cast<size_t>(a.kind)];
        clock[s] = std::max(clock[s], when) + cost, busy[s] += cost;
        if (a.kind != Kind::weights) ended[static_cast<int>(a.kind)][{a.chunk, a.microbatch}] = clock[s];
        moved = true;
      }
  }
  return {*std::max_element(clock.begin(), clock.end()), *std::max_element(busy.begin(), busy.end())};
}

}  // namespace capstan
