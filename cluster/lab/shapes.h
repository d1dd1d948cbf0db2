#pragma once
// Shapes that can really be built: whole layers, widths that heads divide. A size asked for by its number of parameters
// becomes the nearest of them that is not much flatter or deeper than wanted.

#include "cluster/lab/counting.h"
#include "cluster/lab/sweep_spec.h"

namespace capstan {

/// One rung of the ladder.
struct SweepSize {
  std::string label;  ///< "64x3", or the preset's name
  std::string preset;
  DecoderConfig model;
  ParameterParts parts;
  PlanCost cost;
  double n = 0;            ///< as the sweep counts it
  double flops_token = 0;  ///< as the sweep counts it
};

/// Dims of a head for a width: `wanted`, or the next smaller even divisor (1 where there is none).
int64_t head_size_for(int64_t width, int64_t wanted);
/// The base model with this width and depth.
DecoderConfig shaped(const SweepSpec& spec, int64_t width, int64_t layers);
/// The shape nearest to n parameters; `depth` above 0: of that many layers, however flat.
DecoderConfig shape_for(const SweepSpec& spec, double n, int64_t vocabulary, int64_t depth = 0);
SweepSize sized(const SweepSpec& spec, const std::string& label, DecoderConfig model, int64_t vocabulary);
/// All sizes of the sweep by ascending N, each once. Error config.
std::vector<SweepSize> sweep_sizes(const SweepSpec& spec, int64_t vocabulary);
/// Layers that all sizes of a ladder have, or 0: what is foreseen from such a ladder is to have them too.
int64_t common_depth(const std::vector<SweepSize>& sizes);
/// Of an IsoFLOP budget, as indices into `sizes`: the sweep.budgets.sizes_each nearest to the expected optimum, or all.
std::vector<size_t> sizes_of_budget(const SweepSpec& spec, const std::vector<SweepSize>& sizes, double flops);
/// The expected optimum of a budget, from sweep.budgets.centre_*; 0: not known.
double expected_n(const SweepSpec& spec, double flops);

}  // namespace capstan
