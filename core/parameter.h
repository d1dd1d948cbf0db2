#pragma once
// Parameter and ParameterSet: what a module owns. A module declares its parameters once, by logical names ("unfused":
// q, k, v, gate, up each their own); the engine derives masters, working copies, gradients and moments from them, all
// in one flat layout (core/flat_layout.h). What a rank holds of a parameter is said once, by its placements.

#include <cstdint>
#include <string>
#include <unordered_map>
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
  int unit = 0;             ///< a layer, an embedding, the head: what is reduced, gathered and updated in one piece

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
  std::unordered_map<std::string, int> index_;  ///< by name
};

/// Value of element `index` of the parameter named `name` under `seed`: a pure function, so that any rank, and any
/// layout, initialises the same model. normal: Box-Muller on Philox words, in double, stream = hash of the name.
double initial_value(const Parameter& parameter, uint64_t seed, int64_t index);

}  // namespace capstan
