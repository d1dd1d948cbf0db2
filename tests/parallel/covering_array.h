#pragma once
// A covering array: rows over factors of a few levels each, such that any t factors take every allowed combination of
// levels in some row. Greedy, seeded by nothing: the same rows everywhere. (Cohen et al., "The AETG system", 1997.)

#include <functional>
#include <set>
#include <vector>

namespace capstan::testing {

using Row = std::vector<int>;

/// levels[f]: how many of factor f. allowed: whether a whole row can be. What no allowed row contains is left out.
inline std::vector<Row> all_rows(const std::vector<int>& levels, const std::function<bool(const Row&)>& allowed) {
  std::vector<Row> rows;
  Row row(levels.size());
  while (true) {
    if (allowed(row)) rows.push_back(row);
    size_t f = 0;
    for (; f < levels.size() && ++row[f] == levels[f]; ++f) row[f] = 0;
    if (f == levels.size()) return rows;
  }
}

/// Rows of `all` that together contain every three-way combination that `all` contains.
inline std::vector<Row> three_way(const std::vector<Row>& all) {
  const auto combinations = [](const Row& row) {
    std::vector<std::vector<int>> found;
    const int n = static_cast<int>(row.size());
    for (int a = 0; a < n; ++a)
      for (int b = a + 1; b < n; ++b)
        for (int c = b + 1; c < n; ++c)
          found.push_back(
              {a, b, c, row[static_cast<size_t>(a)], row[static_cast<size_t>(b)], row[static_cast<size_t>(c)]});
    return found;
  };
  std::set<std::vector<int>> open;
  for (const Row& row : all)
    for (auto& combination : combinations(row)) open.insert(std::move(combination));
  std::vector<Row> chosen;
  while (!open.empty()) {
    const Row* best = nullptr;
    size_t most = 0;
    for (const Row& row : all) {
      size_t fresh = 0;
      for (const auto& combination : combinations(row)) fresh += open.contains(combination);
      if (fresh > most) best = &row, most = fresh;
    }
    for (const auto& combination : combinations(*best)) open.erase(combination);
    chosen.push_back(*best);
  }
  return chosen;
}

}  // namespace capstan::testing
