#include "core/config/nearest_name.h"

#include <algorithm>

#include "core/config/keys.h"

namespace capstan {
namespace {

/// Insertions, deletions, substitutions and swaps of neighbours that turn a into b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::string_view leaf_of(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

}  // namespace

std::string nearest_name(std::string_view wrong, const std::vector<std::string>& names) {
  if (wrong.size() > 100) return "";
  std::string best;
  size_t best_distance = wrong.size() / 3 + 2;  // further away it is no longer a slip of the finger
  for (const std::string& name : names) {
    const size_t distance = edit_distance(wrong, name);
    if (distance < best_distance && distance < name.size()) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

std::string nearest_config_name(std::string_view wrong) {
  std::vector<std::string> names, leaves;
  for (const Key& key : config_keys()) {
    if (key.leaf() == leaf_of(wrong)) return key.name;  // right name, wrong section
    names.push_back(key.name);
    leaves.push_back(key.leaf());
  }
  if (const std::string near = nearest_name(wrong, names); !near.empty()) return near;
  const std::string leaf = nearest_name(leaf_of(wrong), leaves);
  for (const Key& key : config_keys())
    if (!leaf.empty() && key.leaf() == leaf) return key.name;
  return nearest_name(wrong, config_sections());
}

}  // namespace capstan
