#include "io/checkpoint/runs.h"

#include <fmt/format.h>

#include <queue>
#include <tuple>

namespace capstan {
namespace {
constexpr uint64_t kMostRuns = uint64_t{1} << 28;

/// The next run of one slice, for the merge of all slices in order of their runs.
struct Head {
  uint64_t begin;
  size_t slice;
  uint64_t run;
  bool operator<(const Head& other) const { return std::tie(begin, slice) > std::tie(other.begin, other.slice); }
};
}  // namespace

std::string problem_of(const Runs& r, uint64_t total) {
  if (r.count == 0 || r.runs == 0) return "a slice of no elements";
  if (r.runs == 1 && r.stride != 0) return fmt::format("one run with a stride of {}", r.stride);
  if (r.runs > 1 && r.stride < r.count)
    return fmt::format("runs of {} elements only {} apart overlap", r.count, r.stride);
  uint64_t end = 0;
  bool overflow = __builtin_mul_overflow(r.runs - 1, r.stride, &end);
  overflow |= __builtin_add_overflow(end, r.first, &end);
  overflow |= __builtin_add_overflow(end, r.count, &end);
  if (overflow || end > total)
    return fmt::format("elements {}+{} ({} runs, stride {}) leave the tensor of {} elements", r.first, r.count, r.runs,
                       r.stride, total);
  return {};
}

std::string cover_problem(const std::vector<Runs>& slices, uint64_t total) {
  uint64_t runs = 0;
  std::priority_queue<Head> heads;
  for (size_t i = 0; i < slices.size(); ++i) {
    if (__builtin_add_overflow(runs, slices[i].runs, &runs) || runs > kMostRuns)
      return fmt::format("more than {} runs", kMostRuns);
    heads.push({slices[i].first, i, 0});
  }
  uint64_t covered = 0;
  for (; !heads.empty();) {
    const Head head = heads.top();
    heads.pop();
    if (head.begin > covered) return fmt::format("elements {} to {} are in no slice", covered, head.begin);
    if (head.begin < covered) return fmt::format("element {} is in more than one slice", head.begin);
    const Runs& slice = slices[head.slice];
    covered = head.begin + slice.count;
    if (head.run + 1 < slice.runs) heads.push({head.begin + slice.stride, head.slice, head.run + 1});
  }
  return covered == total ? "" : fmt::format("elements {} to {} are in no slice", covered, total);
}

}  // namespace capstan
