#pragma once
// Mesh: the ranks of a job as a grid over named axes, and the place of one rank in it. Made once and passed; there is
// no global parallel state. tp is innermost (neighbouring ranks), then cp, ep, dp, rep, pp. An axis of size 1 makes
// every conversion over it the identity, so one code path serves one rank and ten thousand. The data ranks are dp x
// rep: state is divided over dp alone, and the ranks of rep are replicas of it (hybrid sharding). Without hybrid
// sharding rep has one rank. ep is reserved: one rank.

#include <array>
#include <cstdint>
#include <string>

namespace capstan {

enum class Axis : uint8_t { dp, pp, cp, tp, ep, rep };
constexpr int kAxisCount = 6;
/// In the order in which sums over several axes are formed: dp, then rep, so that an ordered sum over the data ranks is
/// one tree.
constexpr std::array<Axis, kAxisCount> kAllAxes{Axis::dp, Axis::rep, Axis::pp, Axis::cp, Axis::tp, Axis::ep};
constexpr const char* name_of(Axis axis) {
  constexpr const char* names[] = {"dp", "pp", "cp", "tp", "ep", "rep"};
  return names[static_cast<int>(axis)];
}

class Mesh {
 public:
  struct Sizes : std::array<int, kAxisCount> {
    constexpr Sizes(int dp = 1, int pp = 1, int cp = 1, int tp = 1, int ep = 1, int rep = 1)
        : std::array<int, kAxisCount>{dp, pp, cp, tp, ep, rep} {}
  };

  Mesh() { coordinates_.fill(0); }
  /// Place of `rank` in a grid of these sizes. Throws Error(config) unless 0 <= rank < product of sizes.
  Mesh(const Sizes& sizes, int rank);
  /// dp ranks only.
  static Mesh data_parallel(int ranks, int rank);

  int size(Axis axis) const { return sizes_[static_cast<int>(axis)]; }
  int coordinate(Axis axis) const { return coordinates_[static_cast<int>(axis)]; }
  /// Ranks among which the samples of a step are divided, and which of them this one is.
  int data_ranks() const { return size(Axis::rep) * size(Axis::dp); }
  int data_rank() const { return coordinate(Axis::rep) * size(Axis::dp) + coordinate(Axis::dp); }
  int ranks() const;
  int rank() const { return rank_; }
  /// Ranks that differ from this one only along `axis` share a colour: the argument of Communicator::split.
  int colour(Axis axis) const { return rank_ - coordinate(axis) * stride(axis); }
  /// "dp 2 x pp 1 x cp 1 x tp 1 x ep 1"; with replicas "dp 2 x rep 2 x pp ...".
  std::string describe() const;

 private:
  int stride(Axis axis) const;
  Sizes sizes_;
  std::array<int, kAxisCount> coordinates_;
  int rank_ = 0;
};

}  // namespace capstan
