#include "io/tokenizer/byte_trie.h"

#include <algorithm>

namespace capstan {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, uint32_t>> strings) {
  std::stable_sort(strings.begin(), strings.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::erase_if(strings, [](const auto& string) { return string.first.empty(); });
  if (strings.empty()) return;
  // Breadth first: each node stands for a range of the sorted strings that agree in their first `depth` bytes.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, strings.size(), 0}};
  nodes_.emplace_back();
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    for (; begin < end && strings[begin].first.size() == depth; ++begin) nodes_[node].value = strings[begin].second;
    nodes_[node].first_edge = static_cast<uint32_t>(labels_.size());
    while (begin < end) {
      const auto label = static_cast<unsigned char>(strings[begin].first[depth]);
      size_t next = begin;
      while (next < end && static_cast<unsigned char>(strings[next].first[depth]) == label) ++next;
      labels_.push_back(label);
      targets_.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.emplace_back();
      ranges.push_back({begin, next, depth + 1});
      begin = next;
    }
    nodes_[node].edges = static_cast<uint32_t>(labels_.size()) - nodes_[node].first_edge;
  }
  for (int byte = 0; byte < 256; ++byte) roots_[byte] = child(0, static_cast<unsigned char>(byte));
}

}  // namespace capstan
