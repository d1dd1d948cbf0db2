#include "core/reduce_in_place.h"

namespace capstan {

void reduce_in_place(Recorder& recorder, const std::string& name, const std::string& target) {
  PersistentSpace& space = recorder.persistent_space();
  const Placements wanted = space.at(space.find(target)).spec.placements;
  std::string current = name;
  for (const Axis axis : kAllAxes) {
    TensorSpec spec = space.at(space.find(current)).spec;
    if (!on(spec.placements, axis).is_partial()) continue;
    spec.placements = with(spec.placements, axis, Replicate);
    const std::string next =
        spec.placements == wanted ? target : fmt::format("{}.reduced_over_{}", name, capstan::name_of(axis));
    if (space.find(next) < 0) space.add_view(next, spec, space.find(name), 0);
    recorder.convert_into(recorder.persistent(current), axis, Replicate, recorder.persistent(next));
    current = next;
  }
}

}  // namespace capstan
