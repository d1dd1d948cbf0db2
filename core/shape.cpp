#include "core/shape.h"

#include <fmt/ranges.h>

#include "core/error.h"

namespace capstan {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) {
    CAPSTAN_CHECK(extent >= 0, "shape {}", to_string(shape));
    CAPSTAN_CHECK(extent == 0 || count <= (int64_t{1} << 62) / extent, "shape {} has too many elements",
                  to_string(shape));
    count *= extent;
  }
  return count;
}

int64_t row_count(const Shape& shape) {
  if (shape.empty()) return 1;
  return element_count(Shape(shape.begin(), shape.end() - 1));
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace capstan
