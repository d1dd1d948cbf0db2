#pragma once
// Which elements of a logical tensor a slice holds. A tensor is the row-major list of its elements; a slice is `runs`
// runs of `count` elements each, `stride` apart, the first at `first`. One run is a whole tensor, a shard of dim 0 or a
// piece of a flat bucket; several runs are a shard of any other dim, e.g. columns [c, c + n) of a (R, C) matrix are
// {c, n, R, C}. A shard that several axes cut in several dims is a list of such slices. Storage is the runs back to
// back, which for a shard of one dim is the local tensor just as it lies in memory.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

struct Runs {
  uint64_t first = 0;
  uint64_t count = 0;  ///< elements in each run
  uint64_t runs = 1;
  uint64_t stride = 0;  ///< between the starts of runs; 0 for a single one
  bool operator==(const Runs&) const = default;

  uint64_t elements() const { return count * runs; }
  uint64_t end() const { return first + (runs - 1) * stride + count; }  ///< one past the last element
};

/// Empty when the runs lie within a tensor of `total` elements, ascending and apart; else what is wrong.
std::string problem_of(const Runs& runs, uint64_t total);

/// Empty when the slices, each without a problem of its own, cover elements 0 .. total exactly once; else where not.
/// Memory is that of the list; time that of the runs, which may be 2^28 in all.
std::string cover_problem(const std::vector<Runs>& slices, uint64_t total);

/// A stretch that a slice and a request have in common.
struct Overlap {
  uint64_t element = 0;   ///< in the tensor
  uint64_t in_slice = 0;  ///< in the slice's storage
  uint64_t count = 0;
};

/// Calls visit(Overlap) for each stretch of elements first .. first + count that the slice holds.
template <typename Visit>
void for_each_overlap(const Runs& slice, uint64_t first, uint64_t count, Visit&& visit) {
  const uint64_t end = first + count;
  uint64_t run = slice.stride && first > slice.first ? (first - slice.first) / slice.stride : 0;
  for (; run < slice.runs; ++run) {
    const uint64_t begin = slice.first + run * slice.stride;
    if (begin >= end) return;
    const uint64_t from = begin > first ? begin : first;
    const uint64_t to = begin + slice.count < end ? begin + slice.count : end;
    if (from < to) visit(Overlap{from, run * slice.count + (from - begin), to - from});
  }
}

}  // namespace capstan
