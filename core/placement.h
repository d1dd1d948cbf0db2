#pragma once
// Placement: what one rank holds of a tensor, seen along one mesh axis.
//   Replicate   the whole tensor            Shard(dim)   a run of `dim`            Partial   an addend of a sum still
//   owed
// Parallelism is data: a tensor carries one Placement per axis, ops have rules over them, and where they do not fit the
// recorder inserts a conversion. Partial is linear: only ops linear in that operand let it pass.

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "core/mesh.h"
#include "core/shape.h"
#include "kernels/types.h"

namespace capstan {

struct Placement {
  enum class Kind : uint8_t { replicate, shard, partial };
  Kind kind = Kind::replicate;
  int dim = 0;  ///< when sharded

  constexpr bool is_replicate() const { return kind == Kind::replicate; }
  constexpr bool is_shard() const { return kind == Kind::shard; }
  constexpr bool is_partial() const { return kind == Kind::partial; }
  bool operator==(const Placement&) const = default;
};

constexpr Placement Replicate{Placement::Kind::replicate, 0};
constexpr Placement Partial{Placement::Kind::partial, 0};
constexpr Placement Shard(int dim) { return {Placement::Kind::shard, dim}; }

std::string to_string(const Placement& placement);  ///< "R", "S(0)", "P"

/// What the gradient of a tensor so placed is asked to be: Replicate -> Replicate, Shard(d) -> Shard(d), Partial ->
/// Replicate.
constexpr Placement dual_of(const Placement& p) { return p.is_partial() ? Replicate : p; }

using Placements = std::array<Placement, kAxisCount>;

inline Placement on(const Placements& placements, Axis axis) { return placements[static_cast<int>(axis)]; }
inline Placements with(Placements placements, Axis axis, Placement placement) {
  placements[static_cast<int>(axis)] = placement;
  return placements;
}

/// What ops reason about: global shape, dtype, one Placement per axis.
struct TensorSpec {
  Shape shape;
  DType dtype = DType::f32;
  Placements placements{};

  int64_t elements() const { return element_count(shape); }
  bool operator==(const TensorSpec&) const = default;
};

/// The same with Replicate on every axis of one rank, where any placement means the whole tensor.
Placements effective(const Placements& placements, const Mesh& mesh);

/// The run of one dim that a rank holds.
struct Extent {
  int64_t first = 0;
  int64_t count = 0;
};

/// What this rank holds of each dim. Where several axes share a dim, rep cuts first, then the others in the order of
/// kAllAxes. Of a dim that cp divides only the count is told here: see local_runs. Throws Error(config) when a sharded
/// dim does not divide by the axis.
std::vector<Extent> local_extents(const TensorSpec& spec, const Mesh& mesh);

/// A dim divided over cp is dealt in zigzag: of two chunks for each rank, rank r of n holds chunks r and 2n - 1 - r, in
/// this order. So all ranks have the same work under a causal mask.
std::array<Extent, 2> zigzag_chunks(int64_t extent, int ranks, int rank);

/// The runs of `dim` that this rank holds, in the order in which they lie in its part. What cp leaves to a rank is
/// divided further as it lies there.
std::vector<Extent> local_runs(const TensorSpec& spec, int dim, const Mesh& mesh);

/// Calls visit(global, local, count) for each longest run of elements that lie one after another in the row-major
/// whole tensor and in this rank's part of it; in ascending order. For tensors that cp does not divide.
void each_local_run(const TensorSpec& spec, const Mesh& mesh,
                    const std::function<void(int64_t global, int64_t local, int64_t count)>& visit);

/// Extents that one rank holds. Throws Error(config) when a sharded dim does not divide by the axis.
Shape local_shape(const TensorSpec& spec, const Mesh& mesh);
std::string to_string(const TensorSpec& spec);

}  // namespace capstan
