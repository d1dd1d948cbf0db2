#include "io/corpus/blend.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/error.h"

namespace capstan {
namespace {

using Wide = unsigned __int128;

}  // namespace

BlendSequence::BlendSequence(std::vector<uint64_t> shares) : shares_(std::move(shares)) {
  CAPSTAN_CHECK(!shares_.empty() && shares_.size() <= UINT16_MAX, "a blend of {} sources", shares_.size());
  for (const uint64_t share : shares_) {
    CAPSTAN_CHECK(share <= (uint64_t{1} << 56) - total_, "shares beyond 2^56");
    total_ += share;
  }
  CAPSTAN_CHECK(total_ > 0, "a blend without any share");
  for (Counts* counts : {&first_, &low_, &high_, &middle_, &served_, &due_}) counts->resize(shares_.size());
  between_.reserve(shares_.size()), most_.reserve(shares_.size()), opens_.reserve(shares_.size());
  room_.reserve(shares_.size() + 1);
}

/// Counts at sample k inside (begin, end): each exact share rounded down or up and between the counts at both ends, k
/// in all.
void BlendSequence::apportion(uint64_t begin, uint64_t k, uint64_t end, Counts& out) {
  uint64_t given = 0;
  between_.clear();
  for (size_t s = 0; s < shares_.size(); ++s) {
    const Wide exact = Wide{shares_[s]} * k;
    const auto down = static_cast<uint64_t>(exact / total_);
    const auto rest = static_cast<uint64_t>(exact - Wide{down} * total_);
    out[s] = std::clamp(down, low_[s], high_[s]);
    given += out[s];
    if (rest == 0) continue;
    const uint64_t due = (total_ - rest + shares_[s] - 1) / shares_[s], since = (rest + shares_[s] - 1) / shares_[s];
    between_.push_back({s, rest, std::min(due, end - k), std::min(since, k - begin), 0, out[s] > down,
                        out[s] == down && down < high_[s]});
  }
  if (given < k) given += choose_ahead(k - given, out);
  // Never seen; but whatever happens, counts add up.
  for (size_t s = 0; given < k; s = (s + 1) % shares_.size())
    if (out[s] < high_[s]) ++out[s], ++given;
  for (size_t s = 0; given > k; s = (s + 1) % shares_.size())
    if (out[s] > low_[s]) --out[s], --given;
}

/// Rounds `wanted` more sources up; returns how many it could. Those that may have been served the longest ago come
/// first (what was before can then be scheduled), as far as there is room for them (then so can what follows).
uint64_t BlendSequence::choose_ahead(uint64_t wanted, Counts& out) {
  limit_ahead();
  for (const Between& source : between_)
    if (source.ahead) take_room(source.rank);
  std::sort(between_.begin(), between_.end(), [](const Between& a, const Between& b) {
    return std::tuple(b.since, a.due, a.source) < std::tuple(a.since, b.due, b.source);
  });
  uint64_t given = 0;
  for (const Between& source : between_) {
    if (given == wanted) break;
    if (!source.free || !take_room(source.rank)) continue;
    ++out[source.source], ++given;
  }
  return given;
}

/// Ranks sources by when they are due, the last first. At any later sample t, no more of those that are not yet due
/// may still be ahead than their exact shares at t have beyond whole numbers, rounded up: all sources together are
/// then behind by no more than the samples up to t can serve. So the first ranks have room for a certain number of
/// sources that are ahead; place j of all that room is open from rank opens_[j] on.
void BlendSequence::limit_ahead() {
  std::sort(between_.begin(), between_.end(),
            [](const Between& a, const Between& b) { return std::pair(b.due, a.source) < std::pair(a.due, b.source); });
  const size_t count = between_.size();
  most_.assign(count, count);
  Wide rests = 0;
  uint64_t rates = 0;
  for (size_t i = 0; i < count; ++i) {
    between_[i].rank = i;
    rests += between_[i].rest;
    rates += shares_[between_[i].source];
    const uint64_t later = i + 1 < count ? between_[i + 1].due : 0;
    if (later < between_[i].due)
      most_[i] = std::min<uint64_t>(count, static_cast<uint64_t>((rests + Wide{rates} * later + total_ - 1) / total_));
  }
  for (size_t i = count - 1; i-- > 0;) most_[i] = std::min(most_[i], most_[i + 1]);
  opens_.clear();
  for (size_t i = 0; i < count; ++i) opens_.resize(most_[i], i);
  room_.resize(opens_.size() + 1);
  std::iota(room_.begin(), room_.end(), size_t{0});
}

/// Takes the last free place that is open at `rank`. room_[j]: the last free one of the first j places, or a smaller
/// number that leads to it; 0: none.
bool BlendSequence::take_room(size_t rank) {
  auto place = static_cast<size_t>(std::upper_bound(opens_.begin(), opens_.end(), rank) - opens_.begin());
  while (room_[place] != place) place = room_[place] = room_[room_[place]];
  if (place == 0) return false;
  room_[place] = place - 1;
  return true;
}

/// The sample by which a source that was served so often must be served again.
uint64_t BlendSequence::due(size_t source, uint64_t served) const {
  if (shares_[source] == 0) return UINT64_MAX;
  return static_cast<uint64_t>((Wide{served + 1} * total_ + shares_[source] - 1) / shares_[source]);
}

void BlendSequence::load(uint64_t frame) {
  if (frame == frame_) return;
  uint64_t begin = 0, end = kLongest;
  const uint64_t wanted = frame * kFrame;
  std::fill(low_.begin(), low_.end(), 0);
  std::fill(high_.begin(), high_.end(), UINT64_MAX);
  apportion(0, end, UINT64_MAX, middle_);
  high_.swap(middle_);
  while (end - begin > kFrame) {
    const uint64_t middle = begin + (end - begin) / 2;
    apportion(begin, middle, end, middle_);
    if (wanted < middle) {
      end = middle;
      high_.swap(middle_);
    } else {
      begin = middle;
      low_.swap(middle_);
    }
  }
  first_ = low_;
  frame_ = frame;
  play(high_);
}

/// Within a frame: of the sources whose next sample may come, the one whose next sample is due first.
void BlendSequence::play(const Counts& last) {
  served_ = first_;
  for (size_t s = 0; s < shares_.size(); ++s) due_[s] = due(s, served_[s]);
  for (uint64_t i = 0; i < kFrame; ++i) {
    const uint64_t k = frame_ * kFrame + i;
    size_t best = SIZE_MAX;
    bool best_early = true;
    uint64_t best_due = UINT64_MAX;
    for (size_t s = 0; s < shares_.size(); ++s) {
      if (served_[s] >= last[s]) continue;
      const bool early = Wide{served_[s]} * total_ >= Wide{shares_[s]} * (k + 1);
      const uint64_t deadline = std::min(due_[s], (frame_ + 1) * kFrame);
      if (best == SIZE_MAX || std::pair(early, deadline) < std::pair(best_early, best_due))
        best = s, best_early = early, best_due = deadline;
    }
    whose_[i] = static_cast<uint16_t>(best);
    before_[i] = static_cast<uint16_t>(served_[best] - first_[best]);
    due_[best] = due(best, ++served_[best]);
  }
}

BlendSequence::Place BlendSequence::at(uint64_t k) {
  if (shares_.size() == 1) return {0, k};
  CAPSTAN_CHECK(k < kLongest, "sample {} of a blend", k);
  load(k / kFrame);
  const size_t source = whose_[k % kFrame];
  return {source, first_[source] + before_[k % kFrame]};
}

std::vector<uint64_t> BlendSequence::counts(uint64_t k) {
  if (shares_.size() == 1) return {k};
  CAPSTAN_CHECK(k < kLongest, "sample {} of a blend", k);
  load(k / kFrame);
  Counts counts = first_;
  for (uint64_t i = 0; i < k % kFrame; ++i) ++counts[whose_[i]];
  return counts;
}

}  // namespace capstan
