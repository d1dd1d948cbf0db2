#pragma once
// Mesh: the ranks of a job as a grid over named axes, and the place of one rank in it. Made once and passed; there is
// no global parallel state. tp is innermost (neighbouring ranks), then cp, ep, dp, pp. An axis of size 1 makes every
// conversion over it the identity, so one code path serves one rank and ten thousand.

#include <array>
#include <cstdint>
#include <string>

namespace capstan {

enum class Axis : uint8_t { dp, pp, cp, tp, ep };
constexpr int kAxisCount = 5;
constexpr std::array<Axis, kAxisCount> kAllAxes{Axis::dp, Axis::pp, Axis::cp, Axis::tp, Axis::ep};
constexpr const char* name_of(Axis axis) {
  constexpr const char* names[] = {"dp", "pp", "cp", "tp", "ep"};
  return names[static_cast<int>(axis)];
}

class Mesh {
 public:
  using Sizes = std::array<int, kAxisCount>;

  Mesh() { sizes_.fill(1), coordinates_.fill(0); }
  /// Place of `rank` in a grid of these sizes. Throws Error(config) unless 0 <= rank < product of sizes.
  Mesh(const Sizes& sizes, int rank);
  /// dp ranks only.
  static Mesh data_parallel(int ranks, int rank);

  int size(Axis axis) const { return sizes_[static_cast<int>(axis)]; }
  int coordinate(Axis axis) const { return coordinates_[static_cast<int>(axis)]; }
  int ranks() const;
  int rank() const { return rank_; }
  /// Ranks that differ from this one only along `axis` share a colour: the argument of Communicator::split.
  int colour(Axis axis) const { return rank_ - coordinate(axis) * stride(axis); }
  std::string describe() const;  ///< "dp 2 x pp 1 x cp 1 x tp 1 x ep 1"

 private:
  int stride(Axis axis) const;
  Sizes sizes_;
  Sizes coordinates_;
  int rank_ = 0;
};

}  // namespace capstan
