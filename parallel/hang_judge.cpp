#include "parallel/hang_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

namespace capstan {
namespace {

bool waits(const RankView& rank, double silence) {
  return !rank.silent(silence) && rank.position.state == FlightState::waiting;
}

std::string state_of(const RankView& rank, double silence) {
  if (rank.link == RankView::Link::lost) return "GONE";
  if (rank.link == RankView::Link::left) return "left";
  if (rank.silent(silence)) return "SILENT";
  return rank.position.state == FlightState::waiting ? "waits" : "at work";
}

/// Those to look at come first.
int order_of(const RankView& rank, double silence) {
  if (rank.link == RankView::Link::lost) return 0;
  if (rank.link == RankView::Link::left) return 4;
  return rank.silent(silence) ? 1 : rank.position.state == FlightState::waiting ? 3 : 2;
}

std::string place_of(const RankView& rank) {
  if (rank.link == RankView::Link::unheard && rank.pid == 0) return "nothing is known of it";
  std::string text = rank.position.describe();
  if (rank.position.state == FlightState::waiting) text += fmt::format(" (its call {})", rank.position.collectives);
  return text;
}

using GroupKey = std::tuple<int, int64_t, std::string, std::string, std::string>;  // order, step, state, place, host

}  // namespace

Verdict judge(const std::vector<RankView>& ranks, double silence) {
  Verdict verdict;
  verdict.still = std::numeric_limits<double>::infinity();
  double everybodys = 0.0, of_the_late = 0.0;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankView& rank = ranks[i];
    if (!rank.there()) continue;
    verdict.still = std::min(verdict.still, rank.still);
    everybodys = std::max(everybodys, rank.limit);
    if (waits(rank, silence)) continue;
    verdict.late.push_back(static_cast<int>(i));
    of_the_late = std::max(of_the_late, rank.limit);
  }
  verdict.limit = verdict.late.empty() ? everybodys : of_the_late;
  verdict.hung = verdict.still > verdict.limit && verdict.still < std::numeric_limits<double>::infinity();
  // Whoever is silent holds up those who are at work too: they may be on their way into a collective.
  const auto silent = [&](int rank) { return ranks[static_cast<size_t>(rank)].silent(silence); };
  if (std::any_of(verdict.late.begin(), verdict.late.end(), silent))
    std::erase_if(verdict.late, [&](int rank) { return !silent(rank); });
  return verdict;
}

std::vector<int> lost_ranks(const std::vector<RankView>& ranks) {
  std::vector<int> lost;
  for (size_t i = 0; i < ranks.size(); ++i)
    if (ranks[i].link == RankView::Link::lost) lost.push_back(static_cast<int>(i));
  return lost;
}

std::string rank_list(const std::vector<int>& ranks) {
  constexpr int kMostRuns = 8;
  std::string text;
  int runs = 0;
  for (size_t i = 0; i < ranks.size(); ++runs) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (runs == kMostRuns) return text + fmt::format(", ... ({} in all)", ranks.size());
    text += runs > 0 ? "," : "";
    text += end - i > 1 ? fmt::format("{}-{}", ranks[i], ranks[end - 1]) : fmt::format("{}", ranks[i]);
    i = end;
  }
  return text;
}

std::string who(const std::vector<RankView>& ranks, const std::vector<int>& which) {
  if (which.empty()) return "no rank";
  if (which.size() > 1) return fmt::format("ranks {}", rank_list(which));
  const RankView& rank = ranks[static_cast<size_t>(which[0])];
  std::string text = fmt::format("rank {}", which[0]);
  if (rank.pid == 0) return text;
  text += fmt::format(" on {} (process {}", rank.host, rank.pid);
  if (!rank.condition.empty()) text += ", " + rank.condition;
  return text + ")";
}

std::string what_others_wait_for(const std::vector<RankView>& ranks, double silence) {
  std::map<std::string, std::vector<int>> places;
  for (size_t i = 0; i < ranks.size(); ++i)
    if (ranks[i].there() && waits(ranks[i], silence))
      places[ranks[i].position.describe()].push_back(static_cast<int>(i));
  std::string text;
  int shown = 0;
  for (const auto& [place, waiting] : places) {
    if (++shown > 4) return text + fmt::format("; and at {} other places", places.size() - 4);
    text += fmt::format("{}rank{} {} wait{} in {}", text.empty() ? "" : "; ", waiting.size() == 1 ? "" : "s",
                        rank_list(waiting), waiting.size() == 1 ? "s" : "", place);
  }
  return text;
}

std::string position_table(const std::vector<RankView>& ranks, double silence) {
  struct Group {
    std::vector<int> members;
    double still = 0.0;
  };
  std::map<GroupKey, Group> groups;
  const bool many = ranks.size() > 64;  // then hosts would make a row of each
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankView& rank = ranks[i];
    std::string state = state_of(rank, silence);
    if (!rank.condition.empty()) state += ", " + rank.condition;
    const bool culprit = order_of(rank, silence) < 3;
    Group& group =
        groups[{order_of(rank, silence), rank.position.step, state, place_of(rank), many && !culprit ? "" : rank.host}];
    group.members.push_back(static_cast<int>(i));
    group.still = std::max(group.still, rank.still);
  }
  std::string text =
      fmt::format("  {:<12} {:<14} {:<28} {:>8} {:>7}  {}\n", "ranks", "host", "state", "still", "step", "where");
  constexpr size_t kMostRows = 200;
  size_t row = 0;
  for (const auto& [key, group] : groups) {
    const auto& [order, step, state, place, host] = key;
    if (++row > kMostRows) return text + fmt::format("  ... and {} more\n", groups.size() - kMostRows);
    text += fmt::format("  {:<12} {:<14} {:<28} {:>6.1f} s {:>7}  {}\n", rank_list(group.members), host, state,
                        group.still, step + 1, place);
  }
  return text;
}

}  // namespace capstan
