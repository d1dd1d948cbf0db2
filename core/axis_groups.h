#pragma once
// AxisGroups: the communicators of one rank, made from the world by splitting it once along every axis of more than one
// rank; the other axes share the group of one. Rule: collective, and made in the same order on all ranks.

#include <array>
#include <memory>

#include "core/op.h"

namespace capstan {

class AxisGroups {
 public:
  AxisGroups(const Mesh& mesh, Communicator& world);
  /// Groups of these axes alone, beside those of another AxisGroups: for a lane.
  AxisGroups(const Mesh& mesh, Communicator& world, std::initializer_list<Axis> axes);
  AxisCommunicators communicators() const;
  Communicator& of(Axis axis) const;
  /// The first and the last stage of this rank's pipeline; null on the stages between, and where there is one stage.
  Communicator* ends() const;

 private:
  void make_ends(const Mesh& mesh);

  std::unique_ptr<Communicator> self_;
  std::array<std::unique_ptr<Communicator>, kAxisCount> groups_;  ///< null where the axis has one rank
  std::unique_ptr<Communicator> ends_;                            ///< null where two stages are the whole pipeline
  bool is_end_ = false;
};

}  // namespace capstan
