#pragma once
// Parameter and ParameterSet: what a module owns. A module declares its parameters once, by logical names ("unfused":
// q, k, v, gate, up each their own); the engine derives masters, working copies, gradients and moments from them.
// Flat layout: parameters that decay come first, then those that do not, each group in declared order, each parameter
// aligned to 64 bytes; masters, gradients and moments all use the same layout, so that the optimizer is two ops and a
// reduction one, and a shard of the state is a run of it. What a rank holds of a parameter is said once, by its
// placements; in the flat layout, parameters that are divided alike and whose gradients are reduced alike stand
// together (a bucket), so that what is to be reduced over the same axes is one run of memory.

#include <cstdint>
#include <string>
#include <vector>

#include "core/persistent.h"

namespace capstan {

struct Init {
  enum class Kind : uint8_t { zeros, ones, normal };
  Kind kind = Kind::zeros;
  double deviation = 0.0;
};

struct Parameter {
  std::string name;
  Shape shape;
  Init init;
  bool decay = true;
  bool frozen = false;
  int64_t rows = -1;        ///< rows of dim 0 that mean something, the rest is padding and stays 0; -1: all
  Placements placements{};  ///< Replicate or Shard on each axis

  /// The shape without padding: what a checkpoint holds.
  Shape logical_shape() const;
};

class ParameterSet {
 public:
  /// Declares a parameter. A second declaration of one name is an Error(internal): share the index instead.
  int declare(const Parameter& parameter);
  const Parameter& at(int index) const { return parameters_[static_cast<size_t>(index)]; }
  int find(const std::string& name) const;
  size_t size() const { return parameters_.size(); }
  int64_t elements() const;  ///< without padding
  int64_t trainable_elements() const;

 private:
  std::vector<Parameter> parameters_;
};

/// A run of equal treatment in this rank's flat layout, in elements.
struct FlatRun {
  int64_t first = 0;
  int64_t count = 0;
  bool decay = true;
  int64_t used = 0;         ///< elements before the padding that makes the run divide
  Placements placements{};  ///< Shard(0) on the axes that divide its parameters (each in its own dim), else Replicate
  Placements gradients{};   ///< the same but for Partial on the axes over which gradients are still to be summed
};

/// Runs whose gradients are reduced over the same axes.
struct FlatBucket {
  int64_t first = 0;
  int64_t count = 0;
  Placements placements{};  ///< as those of its runs
  Placements gradients{};   ///< the same but for Partial on the axes over which gradients are still to be summed
};

struct FlatLayout {
  std::vector<int64_t> first;  ///< of each parameter, in elements; -1 when frozen
  std::vector<int> run_of;     ///< of each parameter, or -1
  std::vector<FlatRun> runs;   ///< at most two in each bucket: decay, no decay
  std::vector<FlatBucket> buckets;
  int64_t elements = 0;  ///< with padding

  /// A run or bucket as a tensor of `dtype`: its shards joined are dim 0.
  static TensorSpec spec(int64_t count, DType dtype, const Placements& placements, const Mesh& mesh);
};

/// gradients: of each parameter, the placements that the backward pass leaves its gradient in; none: those of the
/// parameter. Every run divides into `parts` equal pieces that begin at multiples of 64 bytes.
FlatLayout flat_layout(const ParameterSet& parameters, DType dtype, const Mesh& mesh = {},
                       const std::vector<Placements>& gradients = {}, int parts = 1);

/// Value of element `index` of the parameter named `name` under `seed`: a pure function, so that any rank, and any
/// layout, initialises the same model. normal: Box-Muller on Philox words, in double, stream = hash of the name.
double initial_value(const Parameter& parameter, uint64_t seed, int64_t index);

}  // namespace capstan
