#include "core/schedule.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "core/error.h"

namespace capstan {
namespace {

using Kind = Action::Kind;

Schedule empty_schedule(int stages, int chunks_per_stage, int microbatches) {
  CAPSTAN_CHECK(stages > 0 && chunks_per_stage > 0 && microbatches > 0,
                "a schedule of {} stages, {} chunks, {} microbatches", stages, chunks_per_stage, microbatches);
  Schedule schedule{stages, stages * chunks_per_stage, microbatches};
  schedule.actions.resize(static_cast<size_t>(stages));
  return schedule;
}

/// All forwards, then all backwards, through one chunk.
std::vector<Action> gpipe(int stage, int microbatches) {
  std::vector<Action> actions;
  for (int m = 0; m < microbatches; ++m) actions.push_back({Kind::forward, m, stage});
  for (int m = 0; m < microbatches; ++m) actions.push_back({Kind::backward, m, stage});
  return actions;
}

/// Enough forwards to fill the stages behind this one, then one forward and one backward in turn.
std::vector<Action> one_forward_one_backward(int stage, int stages, int microbatches) {
  std::vector<Action> actions;
  const int warmup = std::min(stages - 1 - stage, microbatches);
  int forward = 0;
  for (; forward < warmup; ++forward) actions.push_back({Kind::forward, forward, stage});
  for (int m = 0; m < microbatches; ++m) {
    if (forward < microbatches) actions.push_back({Kind::forward, forward++, stage});
    actions.push_back({Kind::backward, m, stage});
  }
  return actions;
}

/// Narayanan et al. 2021, section 2.2: microbatches go round in groups of p; in each group all chunks of a stage take
/// their turn, in the backward pass from the last on.
std::vector<Action> interleaved(int stage, int stages, int per_stage, int microbatches) {
  const int total = microbatches * per_stage, group = stages * per_stage;
  const auto step = [&](Kind kind, int i) {
    const int turn = i % group / stages;
    const int own = kind == Kind::forward ? turn : per_stage - 1 - turn;
    return Action{kind, i / group * stages + i % stages, own * stages + stage};
  };
  const int warmup =
      microbatches == stages ? total : std::min((stages - stage - 1) * 2 + (per_stage - 1) * stages, total);
  std::vector<Action> actions;
  int forward = 0;
  for (; forward < warmup; ++forward) actions.push_back(step(Kind::forward, forward));
  for (int backward = 0; backward < total; ++backward) {
    if (forward < total) actions.push_back(step(Kind::forward, forward++));
    actions.push_back(step(Kind::backward, backward));
  }
  return actions;
}

/// ZB-H1: forwards and backwards in the order of 1F1B; a stage forms weight gradients where it would otherwise wait,
/// and in any case once more of them than its own number are due, so that they fill the gaps at the end. Played with
/// every action taking one unit of time.
class ZeroBubble {
 public:
  ZeroBubble(int stages, int microbatches) : microbatches_(microbatches), stages_(static_cast<size_t>(stages)) {
    for (int s = 0; s < stages; ++s) at(s).order = one_forward_one_backward(s, stages, microbatches);
  }

  std::vector<std::vector<Action>> run() {
    const auto open = [&](const Stage& stage) { return stage.done[2] < microbatches_; };
    std::vector<Done> before(stages_.size());  // what was finished when this unit began
    while (std::any_of(stages_.begin(), stages_.end(), open)) {
      for (size_t s = 0; s < stages_.size(); ++s) before[s] = stages_[s].done;
      for (int s = 0; s < static_cast<int>(stages_.size()); ++s) act(s, before);
    }
    std::vector<std::vector<Action>> actions;
    for (Stage& stage : stages_) actions.push_back(std::move(stage.played));
    return actions;
  }

 private:
  using Done = std::array<int, 3>;  ///< forwards, backwards, weight gradients
  struct Stage {
    std::vector<Action> order, played;
    size_t next = 0;  ///< of order
    Done done{};
  };
  Stage& at(int stage) { return stages_[static_cast<size_t>(stage)]; }

  void act(int s, const std::vector<Done>& before) {
    Stage& stage = at(s);
    const int due = stage.done[1] - stage.done[2];
    if (due <= s && stage.next < stage.order.size() && ready(s, before)) {
      stage.played.push_back(stage.order[stage.next++]);
    } else if (due > 0) {
      stage.played.push_back({Kind::weights, stage.done[2], s});
    } else {
      return;
    }
    ++stage.done[static_cast<size_t>(stage.played.back().kind)];
  }
  /// Whether what the next action in order reads had arrived.
  bool ready(int stage, const std::vector<Done>& before) const {
    const size_t s = static_cast<size_t>(stage);
    const Action& action = stages_[s].order[stages_[s].next];
    if (action.kind == Kind::forward) return s == 0 || before[s - 1][0] > action.microbatch;
    return before[s][0] > action.microbatch && (s + 1 == before.size() || before[s + 1][1] > action.microbatch);
  }

  int microbatches_;
  std::vector<Stage> stages_;
};

}  // namespace

std::optional<ScheduleKind> schedule_kind(const std::string& name) {
  constexpr const char* names[] = {"gpipe", "1f1b", "interleaved", "zero-bubble"};
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return static_cast<ScheduleKind>(i);
  return std::nullopt;
}

std::string Schedule::name_of(const Action& action) const {
  const std::string name = fmt::format("{}{}", "FBW"[static_cast<int>(action.kind)], action.microbatch);
  return chunks > stages ? fmt::format("{}.{}", name, action.chunk / stages) : name;
}

std::string Schedule::to_text() const {
  std::string text;
  for (const std::vector<Action>& stage : actions) {
    for (size_t i = 0; i < stage.size(); ++i) text += (i > 0 ? " " : "") + name_of(stage[i]);
    text += "\n";
  }
  return text;
}

Schedule make_schedule(ScheduleKind kind, int stages, int chunks_per_stage, int microbatches) {
  const bool interleaves = kind == ScheduleKind::interleaved && stages > 1 && chunks_per_stage > 1;
  if (interleaves && microbatches % stages != 0)
    throw Error::make(ExitCode::config,
                      "an interleaved schedule goes round in groups of as many microbatches as stages: {} microbatches "
                      "are no multiple of {} stages; nearest: {}",
                      microbatches, stages, (microbatches / stages + 1) * stages);
  Schedule schedule = empty_schedule(stages, interleaves ? chunks_per_stage : 1, microbatches);
  if (kind == ScheduleKind::zero_bubble && stages > 1) {
    schedule.splits_weights = true;
    schedule.actions = ZeroBubble(stages, microbatches).run();
    return schedule;
  }
  for (int stage = 0; stage < stages; ++stage)
    schedule.actions[static_cast<size_t>(stage)] =
        kind == ScheduleKind::gpipe && stages > 1 ? gpipe(stage, microbatches)
        : interleaves                             ? interleaved(stage, stages, chunks_per_stage, microbatches)
                                                  : one_forward_one_backward(stage, stages, microbatches);
  return schedule;
}

namespace {

/// "F3" or "F3.1"; the number behind the dot counts the stage's own chunks.
Action parse_action(const std::string& word, int stage, int stages, const std::string& where) {
  const size_t kind = std::string("FBW").find(word.empty() ? '?' : word[0]);
  Action action;
  int own = 0;
  const char* end = word.data() + word.size();
  auto read = std::from_chars(word.data() + 1, end, action.microbatch);
  if (read.ec == std::errc() && read.ptr != end && *read.ptr == '.') read = std::from_chars(read.ptr + 1, end, own);
  constexpr int kMost = 1 << 20;
  if (kind == std::string::npos || word.size() < 2 || read.ec != std::errc() || read.ptr != end || own < 0 ||
      own > kMost || action.microbatch < 0)
    throw Error::make(ExitCode::config,
                      "{}: wanted an action such as F0, B3 or W3 (with several chunks on a stage F0.1), got '{}'",
                      where, word);
  action.kind = static_cast<Kind>(kind);
  action.chunk = own * stages + stage;
  return action;
}

}  // namespace

Schedule parse_schedule(const std::string& text, int stages, int microbatches, const std::string& origin) {
  Schedule schedule = empty_schedule(stages, 1, microbatches);
  std::istringstream lines(text);
  std::string line;
  schedule.places.resize(schedule.actions.size());
  int number = 0, stage = 0;
  while (std::getline(lines, line)) {
    ++number;
    std::istringstream words(line.substr(0, line.find('#')));
    std::vector<Action> actions;
    for (std::string word; words >> word;)
      actions.push_back(parse_action(word, stage, stages, fmt::format("{}:{}", origin, number)));
    if (actions.empty()) continue;
    if (stage == stages)
      throw Error::make(ExitCode::config, "{}:{}: this is the line of stage {}, but layout.pp is {}", origin, number,
                        stage, stages);
    for (const Action& action : actions) {
      schedule.chunks = std::max(schedule.chunks, (action.chunk / stages + 1) * stages);
      schedule.splits_weights = schedule.splits_weights || action.kind == Kind::weights;
    }
    schedule.places[static_cast<size_t>(stage)] = fmt::format("{}:{}", origin, number);
    schedule.actions[static_cast<size_t>(stage++)] = std::move(actions);
  }
  if (stage < stages)
    throw Error::make(ExitCode::config, "{}: wanted a line of actions for each of {} stages (layout.pp), got {}",
                      origin, stages, stage);
  return schedule;
}

}  // namespace capstan
