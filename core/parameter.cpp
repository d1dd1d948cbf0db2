#include "core/parameter.h"

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
  const int index = static_cast<int>(parameters_.size());
  CAPSTAN_CHECK(index_.emplace(parameter.name, index).second, "parameter {} is declared twice", parameter.name);
  parameters_.push_back(parameter);
  return index;
}

int ParameterSet::find(const std::string& name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? -1 : at->second;
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
