#include "core/flat_layout.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {
namespace {

/// Placements of a parameter, or of its gradient, as its run of the flat buffer has them.
Placements flattened(const Placements& placements, const Mesh& mesh) {
  Placements flat = effective(placements, mesh);
  for (Placement& placement : flat)
    if (placement.is_shard()) placement = Shard(0);
  return flat;
}

class LayoutBuilder {
 public:
  LayoutBuilder(const ParameterSet& parameters, DType dtype, const Mesh& mesh, const FlatOptions& options)
      : parameters_(parameters), dtype_(dtype), mesh_(mesh), options_(options) {}

  FlatLayout build() {
    layout_.first.assign(parameters_.size(), -1), layout_.run_of.assign(parameters_.size(), -1);
    find_runs();
    for (size_t r = 0; r < layout_.runs.size(); ++r) lay_out(static_cast<int>(r));
    return layout_;
  }

 private:
  const Parameter& at(size_t i) const { return parameters_.at(static_cast<int>(i)); }
  bool held(size_t i) const { return options_.held.empty() || options_.held[i]; }

  FlatRun wanted(size_t i) const {
    FlatRun run;
    run.unit = at(i).unit, run.decay = at(i).decay, run.held = held(i);
    run.placements = flattened(at(i).placements, mesh_);
    run.gradients = options_.gradients.empty() ? run.placements : flattened(options_.gradients[i], mesh_);
    return run;
  }
  static bool treated_alike(const FlatRun& a, const FlatRun& b) {
    return a.unit == b.unit && a.placements == b.placements && a.gradients == b.gradients;
  }
  static bool same(const FlatRun& a, const FlatRun& b) { return treated_alike(a, b) && a.decay == b.decay; }

  /// By unit; in a unit what is treated alike stands together, what decays first.
  void find_runs() {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (at(i).frozen) continue;
      const FlatRun run = wanted(i);
      std::vector<FlatRun>& runs = layout_.runs;
      if (std::any_of(runs.begin(), runs.end(), [&](const FlatRun& other) { return same(run, other); })) continue;
      auto place = std::find_if(runs.begin(), runs.end(), [&](const FlatRun& other) { return other.unit > run.unit; });
      const auto alike =
          std::find_if(runs.begin(), runs.end(), [&](const FlatRun& other) { return treated_alike(run, other); });
      if (alike != runs.end()) place = run.decay && !alike->decay ? alike : alike + 1;
      runs.insert(place, run);
    }
  }

  void lay_out(int index) {
    FlatRun& run = layout_.runs[static_cast<size_t>(index)];
    const int64_t step = static_cast<int64_t>(kAlignment / bytes_of(dtype_)), whole = step * options_.parts;
    run.first = run.held ? layout_.elements : -1;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (at(i).frozen || !same(wanted(i), run)) continue;
      CAPSTAN_CHECK(held(i) == run.held, "{} is held, another parameter of its unit is not (or the reverse)",
                    at(i).name);
      layout_.run_of[i] = index;
      if (run.held) layout_.first[i] = run.first + run.used;
      const Shape local = local_shape({at(i).shape, dtype_, effective(at(i).placements, mesh_)}, mesh_);
      run.used += (element_count(local) + step - 1) / step * step;
    }
    run.count = (run.used + whole - 1) / whole * whole;
    if (run.held) layout_.elements += run.count;
  }

  const ParameterSet& parameters_;
  DType dtype_;
  const Mesh& mesh_;
  const FlatOptions& options_;
  FlatLayout layout_;
};

}  // namespace

TensorSpec FlatLayout::spec(int64_t count, DType dtype, const Placements& placements, const Mesh& mesh) {
  for (const Axis axis : kAllAxes)
    if (on(placements, axis).is_shard()) count *= mesh.size(axis);
  return {{count}, dtype, placements};
}

FlatLayout flat_layout(const ParameterSet& parameters, DType dtype, const Mesh& mesh, const FlatOptions& options) {
  return LayoutBuilder(parameters, dtype, mesh, options).build();
}

}  // namespace capstan
