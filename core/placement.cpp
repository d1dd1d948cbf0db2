#include "core/placement.h"

#include "core/error.h"

namespace capstan {

std::string to_string(const Placement& placement) {
  if (placement.is_replicate()) return "R";
  return placement.is_partial() ? "P" : fmt::format("S({})", placement.dim);
}

Shape local_shape(const TensorSpec& spec, const Mesh& mesh) {
  Shape shape = spec.shape;
  for (const Axis axis : kAllAxes) {
    const Placement placement = on(spec.placements, axis);
    const int ranks = mesh.size(axis);
    if (!placement.is_shard() || ranks == 1) continue;
    CAPSTAN_CHECK(placement.dim < static_cast<int>(shape.size()), "{} has no dim {}", to_string(spec), placement.dim);
    int64_t& extent = shape[placement.dim];
    if (extent % ranks != 0)
      throw Error::make(ExitCode::config, "dim {} of {} has {} elements, which {} ranks of axis {} do not divide",
                        placement.dim, to_string(spec.shape), extent, ranks, name_of(axis));
    extent /= ranks;
  }
  return shape;
}

std::string to_string(const TensorSpec& spec) {
  std::string text = fmt::format("{}{}", name_of(spec.dtype), to_string(spec.shape));
  for (const Axis axis : kAllAxes)
    if (!on(spec.placements, axis).is_replicate())
      text += fmt::format(" {}:{}", name_of(axis), to_string(on(spec.placements, axis)));
  return text;
}

}  // namespace capstan
