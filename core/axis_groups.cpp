#include "core/axis_groups.h"

#include "core/error.h"

namespace capstan {

AxisGroups::AxisGroups(const Mesh& mesh, Communicator& world, std::initializer_list<Axis> axes)
    : self_(self_communicator()) {
  CAPSTAN_CHECK(mesh.ranks() == world.size() && mesh.rank() == world.rank(), "rank {} of {} is given the mesh {}",
                world.rank(), world.size(), mesh.describe());
  for (const Axis axis : axes)
    if (mesh.size(axis) > 1) groups_[static_cast<size_t>(axis)] = world.split(mesh.colour(axis), mesh.coordinate(axis));
}

AxisGroups::AxisGroups(const Mesh& mesh, Communicator& world)
    : AxisGroups(mesh, world, {Axis::dp, Axis::rep, Axis::pp, Axis::cp, Axis::tp, Axis::ep}) {
  make_ends(mesh);
}

void AxisGroups::make_ends(const Mesh& mesh) {
  const int stages = mesh.size(Axis::pp), stage = mesh.coordinate(Axis::pp);
  is_end_ = stages > 1 && (stage == 0 || stage + 1 == stages);
  if (stages > 2) ends_ = of(Axis::pp).split(is_end_ ? 0 : 1 + stage, stage);
}

Communicator* AxisGroups::ends() const {
  if (!is_end_) return nullptr;
  return ends_ ? ends_.get() : &of(Axis::pp);
}

Communicator& AxisGroups::of(Axis axis) const {
  const auto& group = groups_[static_cast<size_t>(axis)];
  return group ? *group : *self_;
}

AxisCommunicators AxisGroups::communicators() const {
  AxisCommunicators result;
  for (const Axis axis : kAllAxes) result.of[static_cast<size_t>(axis)] = &of(axis);
  result.ends = ends();
  return result;
}

}  // namespace capstan
