#pragma once
// What the ops that are matrix products share.

#include <span>

#include "core/op.h"

namespace capstan {

/// A product of [m, k] and [k, n], whatever stands in its epilogue; bytes of all operands.
inline Cost product_cost(int64_t m, int64_t n, int64_t k, std::span<const TensorSpec> in,
                         std::span<const TensorSpec> out) {
  Cost cost{2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k), 0.0};
  for (const TensorSpec& spec : in) cost.bytes += static_cast<double>(spec.elements() * bytes_of(spec.dtype));
  for (const TensorSpec& spec : out) cost.bytes += static_cast<double>(spec.elements() * bytes_of(spec.dtype));
  return cost;
}

}  // namespace capstan
