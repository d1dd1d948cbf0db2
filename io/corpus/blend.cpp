#include "io/corpus/blend.h"

#include <algorithm>

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
  order_.reserve(shares_.size());
}

uint64_t BlendSequence::exact_floor(size_t source, uint64_t k) const {
  return static_cast<uint64_t>(Wide{shares_[source]} * k / total_);
}

/// Counts at sample k: each exact share rounded down or up and between `lowest` and `highest`, k in all.
void BlendSequence::apportion(uint64_t k, const Counts& lowest, const Counts& highest, Counts& out) {
  uint64_t given = 0;
  order_.clear();
  for (size_t s = 0; s < shares_.size(); ++s) {
    const uint64_t down = exact_floor(s, k);
    out[s] = std::clamp(down, lowest[s], highest[s]);
    given += out[s];
    if (out[s] == down && down < highest[s]) order_.push_back(s);
  }
  const auto remainder = [&](size_t s) { return static_cast<uint64_t>(Wide{shares_[s]} * k % total_); };
  std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
    const uint64_t left = remainder(a), right = remainder(b);
    return left != right ? left > right : a < b;
  });
  for (size_t i = 0; given < k && i < order_.size(); ++i, ++given) ++out[order_[i]];
  // What the bounds on both sides have left over or lacking: hardly ever anything.
  for (size_t s = 0; given < k; s = (s + 1) % shares_.size())
    if (out[s] < highest[s]) ++out[s], ++given;
  for (size_t s = 0; given > k; s = (s + 1) % shares_.size())
    if (out[s] > lowest[s]) --out[s], --given;
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
  apportion(end, low_, high_, middle_);
  high_.swap(middle_);
  while (end - begin > kFrame) {
    const uint64_t middle = begin + (end - begin) / 2;
    apportion(middle, low_, high_, middle_);
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
