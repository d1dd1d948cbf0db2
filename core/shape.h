#pragma once
// Shape: the extents of a tensor, outermost first. Element counts are checked products: a shape that overflows is an
// Error.

#include <cstdint>
#include <string>
#include <vector>

namespace capstan {

using Shape = std::vector<int64_t>;

/// Product of the extents; throws Error(internal) on negative extents or overflow of 2^62.
int64_t element_count(const Shape& shape);
/// Product of all extents but the last: the rows of a matrix view. 1 for rank 0 or 1.
int64_t row_count(const Shape& shape);
/// "[4, 64, 128]"
std::string to_string(const Shape& shape);

}  // namespace capstan
