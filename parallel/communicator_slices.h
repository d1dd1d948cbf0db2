#pragma once
// A run [begin, end) of bytes of an array, cut into one slice per rank, for collectives in which rank r sums slice r.
// Slices begin at multiples of 64 bytes from `begin`, so no element is cut; the last ones may be empty.

#include <algorithm>
#include <cstddef>

namespace capstan {

class Slices {
 public:
  static constexpr size_t kAlign = 64;

  Slices(size_t begin, size_t end, int ranks) : begin_(begin), length_(end - begin) {
    const size_t n = static_cast<size_t>(ranks);
    step_ = ((length_ + n - 1) / n + kAlign - 1) / kAlign * kAlign;
  }
  size_t in_run(int rank) const { return std::min(static_cast<size_t>(rank) * step_, length_); }
  size_t in_array(int rank) const { return begin_ + in_run(rank); }
  size_t bytes(int rank) const { return in_run(rank + 1) - in_run(rank); }

 private:
  size_t begin_, length_, step_ = 0;
};

}  // namespace capstan
