#pragma once
// Blends: how much of each corpus a run reads, and whose sample comes when. Two parts. plan_blend() turns what the user
// asked for (weights, epochs, caps on repetition) into whole-number shares. BlendSequence says which source sample k is
// taken from, as a pure function of k. The clever thing: nothing is stored per sample and no index is built. Counts at
// the ends of an interval of samples determine counts at its middle, so 39 halvings lead from the whole run to a frame
// of 512 samples, and within a frame whose turn is due first is taken first. Counts are exact shares rounded down or
// up; up are rounded those by which a schedule remains possible on both sides (unit jobs with release times and
// deadlines: the rounding is a greedy basis under nested limits). So at every prefix each source is less than one
// sample from its exact share. Rule: the mapping is part of what a checkpoint promises; tests hold golden values.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace capstan {

/// What the user asked for; all lists are empty, or as long as there are corpora, or (epochs, max_epochs) of one
/// number.
struct BlendRequest {
  std::vector<double> weights;     ///< shares of the samples; empty: in proportion to what the corpora hold
  std::vector<double> epochs;      ///< shares in proportion to so many epochs of each corpus
  std::vector<double> max_epochs;  ///< no corpus is read more often than this in the whole run; 0: no cap
  uint64_t samples = 0;            ///< of the whole run; 0: not known yet, then no cap is applied
};

/// What is known of a source when the shares are planned.
struct BlendSource {
  std::string name;
  uint64_t samples = 0;  ///< of an epoch
  double seen = 0;       ///< epochs read already
};

/// Whole-number shares for the samples from `cursor` to the end of the run. Error config: lists of the wrong length,
/// nothing to read, caps that leave too little, with the numbers.
std::vector<uint64_t> plan_blend(const BlendRequest& request, const std::vector<BlendSource>& sources, uint64_t cursor);

class BlendSequence {
 public:
  struct Place {
    size_t source = 0;
    uint64_t index = 0;  ///< how many samples of this source came before
  };
  static constexpr uint64_t kLongest = uint64_t{1} << 48;  ///< samples

  /// Shares add up to less than 2^56.
  explicit BlendSequence(std::vector<uint64_t> shares);
  Place at(uint64_t k);
  /// Samples of each source among the first k.
  std::vector<uint64_t> counts(uint64_t k);
  const std::vector<uint64_t>& shares() const { return shares_; }

 private:
  using Counts = std::vector<uint64_t>;
  static constexpr uint64_t kFrame = 512;

  /// A source whose exact share at some sample is no whole number.
  struct Between {
    size_t source;
    uint64_t rest;   ///< of the exact share, in parts of the total
    uint64_t due;    ///< samples until it must be served, if it is not ahead; the end of the interval at most
    uint64_t since;  ///< samples during which it may have been served, back to the beginning at most
    size_t rank;     ///< by `due`
    bool ahead;      ///< rounded up already, because the interval begins so
    bool free;       ///< may be rounded up
  };

  void apportion(uint64_t begin, uint64_t k, uint64_t end, Counts& out);
  uint64_t choose_ahead(uint64_t wanted, Counts& out);
  void limit_ahead();
  bool take_room(size_t rank);
  void load(uint64_t frame);
  void play(const Counts& last);
  uint64_t due(size_t source, uint64_t served) const;

  std::vector<uint64_t> shares_;
  uint64_t total_ = 0;
  uint64_t frame_ = UINT64_MAX;
  Counts first_, low_, high_, middle_, served_, due_;
  std::vector<Between> between_;
  std::vector<uint64_t> most_;
  std::vector<size_t> opens_, room_;
  std::array<uint16_t, kFrame> whose_{};
  std::array<uint16_t, kFrame> before_{};  ///< samples of the same source earlier in the frame
};

}  // namespace capstan
