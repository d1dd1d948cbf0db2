#include "core/placement.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {

std::string to_string(const Placement& placement) {
  if (placement.is_replicate()) return "R";
  return placement.is_partial() ? "P" : fmt::format("S({})", placement.dim);
}

Placements effective(const Placements& placements, const Mesh& mesh) {
  Placements result = placements;
  for (const Axis axis : kAllAxes)
    if (mesh.size(axis) == 1) result = with(result, axis, Replicate);
  return result;
}

/// Replicas are the outermost of the data ranks, so that the samples of neighbouring data ranks are neighbours.
constexpr std::array<Axis, kAxisCount> kFirstToCut{Axis::rep, Axis::dp, Axis::pp, Axis::cp, Axis::tp, Axis::ep};

std::vector<Extent> local_extents(const TensorSpec& spec, const Mesh& mesh) {
  std::vector<Extent> extents;
  for (const int64_t extent : spec.shape) extents.push_back({0, extent});
  for (const Axis axis : kFirstToCut) {
    const Placement placement = on(spec.placements, axis);
    const int ranks = mesh.size(axis);
    if (!placement.is_shard() || ranks == 1) continue;
    CAPSTAN_CHECK(placement.dim < static_cast<int>(extents.size()), "{} has no dim {}", to_string(spec), placement.dim);
    Extent& extent = extents[static_cast<size_t>(placement.dim)];
    if (extent.count % (axis == Axis::cp ? 2 * ranks : ranks) != 0)
      throw Error::make(ExitCode::config, "dim {} of {} has {} elements, which {} ranks of axis {} do not divide{}",
                        placement.dim, to_string(spec.shape), extent.count, ranks, name_of(axis),
                        axis == Axis::cp ? " into two chunks for each" : "");
    extent.count /= ranks;
    extent.first += mesh.coordinate(axis) * extent.count;
  }
  return extents;
}

std::array<Extent, 2> zigzag_chunks(int64_t extent, int ranks, int rank) {
  const int64_t chunk = extent / (2 * ranks);
  return {Extent{rank * chunk, chunk}, Extent{(2 * ranks - 1 - rank) * chunk, chunk}};
}

std::vector<Extent> local_runs(const TensorSpec& spec, int dim, const Mesh& mesh) {
  const int ranks = mesh.size(Axis::cp);
  const size_t d = static_cast<size_t>(dim);
  if (ranks == 1 || on(spec.placements, Axis::cp) != Shard(dim)) return {local_extents(spec, mesh)[d]};
  CAPSTAN_CHECK(on(spec.placements, Axis::dp) != Shard(dim) && on(spec.placements, Axis::rep) != Shard(dim),
                "{}: dim {} is divided over data ranks and cp", to_string(spec), dim);
  TensorSpec left = spec;  // to this rank of cp
  left.shape[d] /= ranks, left.placements = with(left.placements, Axis::cp, Replicate);
  const Extent mine = local_extents(left, mesh)[d];
  std::vector<Extent> runs;
  int64_t at = 0;  // where the chunk lies in what is left to this rank
  for (const Extent& chunk : zigzag_chunks(spec.shape[d], ranks, mesh.coordinate(Axis::cp))) {
    const int64_t from = std::max(at, mine.first), to = std::min(at + chunk.count, mine.first + mine.count);
    if (from < to) runs.push_back({chunk.first + from - at, to - from});
    at += chunk.count;
  }
  return runs;
}

Shape local_shape(const TensorSpec& spec, const Mesh& mesh) {
  Shape shape;
  for (const Extent& extent : local_extents(spec, mesh)) shape.push_back(extent.count);
  return shape;
}

void each_local_run(const TensorSpec& spec, const Mesh& mesh,
                    const std::function<void(int64_t, int64_t, int64_t)>& visit) {
  CAPSTAN_CHECK(mesh.size(Axis::cp) == 1 || !on(spec.placements, Axis::cp).is_shard(), "{} is divided over cp",
                to_string(spec));
  const std::vector<Extent> extents = local_extents(spec, mesh);
  size_t dims = extents.size();  // dims from here on are whole, so that they lie in one run
  int64_t whole = 1;
  while (dims > 0 && extents[dims - 1].count == spec.shape[dims - 1]) whole *= spec.shape[--dims];
  const int64_t cut = dims > 0 ? dims--, extents[dims].count : 1;  // the last dim that is cut
  int64_t runs = 1;
  for (size_t d = 0; d < dims; ++d) runs *= extents[d].count;
  if (cut * whole == 0) return;
  for (int64_t run = 0; run < runs; ++run) {
    int64_t row = 0, rest = run, stride = 1;  // row: global index over the dims before the one that is cut
    for (size_t d = dims; d-- > 0; stride *= spec.shape[d]) {
      row += (extents[d].first + rest % extents[d].count) * stride;
      rest /= extents[d].count;
    }
    const int64_t cut_extent = dims < extents.size() ? spec.shape[dims] : 1;
    const int64_t first = dims < extents.size() ? extents[dims].first : 0;
    visit((row * cut_extent + first) * whole, run * cut * whole, cut * whole);
  }
}

std::string to_string(const TensorSpec& spec) {
  std::string text = fmt::format("{}{}", name_of(spec.dtype), to_string(spec.shape));
  for (const Axis axis : kAllAxes)
    if (!on(spec.placements, axis).is_replicate())
      text += fmt::format(" {}:{}", name_of(axis), to_string(on(spec.placements, axis)));
  return text;
}

}  // namespace capstan
