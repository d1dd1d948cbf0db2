#include "core/mesh.h"

#include "core/error.h"

namespace capstan {
namespace {
constexpr std::array<Axis, kAxisCount> kInnermostFirst{Axis::tp, Axis::cp, Axis::ep, Axis::dp, Axis::rep, Axis::pp};
}

Mesh::Mesh(const Sizes& sizes, int rank) : sizes_(sizes), rank_(rank) {
  for (const Axis axis : kAllAxes)
    if (size(axis) < 1)
      throw Error::make(ExitCode::config, "layout.{}: wanted at least 1, got {}", name_of(axis), size(axis));
  if (rank < 0 || rank >= ranks())
    throw Error::make(ExitCode::config, "rank {} is outside a mesh of {} ranks ({})", rank, ranks(), describe());
  int rest = rank;
  for (const Axis axis : kInnermostFirst) {
    coordinates_[static_cast<int>(axis)] = rest % size(axis);
    rest /= size(axis);
  }
}

Mesh Mesh::data_parallel(int ranks, int rank) { return Mesh(Sizes(ranks), rank); }

int Mesh::ranks() const {
  int product = 1;
  for (const int size : sizes_) product *= size;
  return product;
}

int Mesh::stride(Axis axis) const {
  int stride = 1;
  for (const Axis inner : kInnermostFirst) {
    if (inner == axis) break;
    stride *= size(inner);
  }
  return stride;
}

std::string Mesh::describe() const {
  std::string text;
  for (const Axis axis : kAllAxes)
    if (axis != Axis::rep || size(axis) > 1)
      text += fmt::format("{}{} {}", text.empty() ? "" : " x ", name_of(axis), size(axis));
  return text;
}

}  // namespace capstan
