#include "core/parameter.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/hash.h"
#include "kernels/philox.h"

namespace capstan {

Shape Parameter::logical_shape() const {
  Shape logical = shape;
  if (rows >= 0) logical[0] = rows;
  return logical;
}

int ParameterSet::declare(const Parameter& parameter) {
  CAPSTAN_CHECK(find(parameter.name) < 0, "parameter {} is declared twice", parameter.name);
  parameters_.push_back(parameter);
  return static_cast<int>(parameters_.size()) - 1;
}

int ParameterSet::find(const std::string& name) const {
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].name == name) return static_cast<int>(i);
  return -1;
}

int64_t ParameterSet::elements() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += element_count(parameter.logical_shape());
  return count;
}

int64_t ParameterSet::trainable_elements() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_)
    count += parameter.frozen ? 0 : element_count(parameter.logical_shape());
  return count;
}

namespace {

/// Placements of a parameter, or of its gradient, as its run of the flat buffer has them.
Placements flattened(const Placements& placements, const Mesh& mesh) {
  Placements flat = effective(placements, mesh);
  for (Placement& placement : flat)
    if (placement.is_shard()) placement = Shard(0);
  return flat;
}

}  // namespace

TensorSpec FlatLayout::spec(int64_t count, DType dtype, const Placements& placements, const Mesh& mesh) {
  for (const Axis axis : kAllAxes)
    if (on(placements, axis).is_shard()) count *= mesh.size(axis);
  return {{count}, dtype, placements};
}

FlatLayout flat_layout(const ParameterSet& parameters, DType dtype, const Mesh& mesh,
                       const std::vector<Placements>& gradients, int parts) {
  const int64_t step = static_cast<int64_t>(kAlignment / bytes_of(dtype));
  FlatLayout layout;
  layout.first.assign(parameters.size(), -1), layout.run_of.assign(parameters.size(), -1);
  const auto bucket_of = [&](size_t i) {
    const Placements own = flattened(parameters.at(static_cast<int>(i)).placements, mesh);
    return FlatBucket{0, 0, own, gradients.empty() ? own : flattened(gradients[i], mesh)};
  };
  const auto same = [](const FlatBucket& a, const FlatBucket& b) {
    return a.placements == b.placements && a.gradients == b.gradients;
  };
  for (size_t i = 0; i < parameters.size(); ++i) {
    const FlatBucket wanted = bucket_of(i);
    const auto found = [&](const FlatBucket& bucket) { return same(bucket, wanted); };
    if (!parameters.at(static_cast<int>(i)).frozen && std::none_of(layout.buckets.begin(), layout.buckets.end(), found))
      layout.buckets.push_back(wanted);
  }
  for (FlatBucket& bucket : layout.buckets) {
    bucket.first = layout.elements;
    for (const bool decay : {true, false}) {
      FlatRun run{layout.elements, 0, decay, 0, bucket.placements, bucket.gradients};
      for (size_t i = 0; i < parameters.size(); ++i) {
        const Parameter& parameter = parameters.at(static_cast<int>(i));
        if (parameter.frozen || parameter.decay != decay || !same(bucket_of(i), bucket)) continue;
        layout.first[i] = layout.elements, layout.run_of[i] = static_cast<int>(layout.runs.size());
        const Shape local = local_shape({parameter.shape, dtype, effective(parameter.placements, mesh)}, mesh);
        layout.elements += (element_count(local) + step - 1) / step * step;
      }
      const int64_t whole = step * parts;
      run.used = layout.elements - run.first;
      run.count = (run.used + whole - 1) / whole * whole;
      layout.elements = run.first + run.count;
      if (run.count > 0) layout.runs.push_back(run);
    }
    bucket.count = layout.elements - bucket.first;
  }
  return layout;
}

double initial_value(const Parameter& parameter, uint64_t seed, int64_t index) {
  if (parameter.init.kind == Init::Kind::zeros || index >= element_count(parameter.logical_shape())) return 0.0;
  if (parameter.init.kind == Init::Kind::ones) return 1.0;
  const uint64_t pair = static_cast<uint64_t>(index) / 2;
  const PhiloxBlock words = philox(seed, pair, hash_of(parameter.name));
  const double u = (static_cast<double>(words[0]) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(words[1]) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u));
  return parameter.init.deviation * radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

}  // namespace capstan
