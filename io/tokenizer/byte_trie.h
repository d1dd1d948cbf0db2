#pragma once
// ByteTrie: finds which of many strings begin at a place. Built once from all strings; a node's edges lie together.

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace capstan {

class ByteTrie {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  ByteTrie() = default;
  /// (string, value); empty strings are left out, of equal ones the last counts.
  explicit ByteTrie(std::vector<std::pair<std::string_view, uint32_t>> strings);

  bool empty() const { return nodes_.empty(); }
  bool may_begin(unsigned char byte) const { return !nodes_.empty() && roots_[byte] != kNone; }

  /// Calls visit(length, value) for each string that begins at `at`, the shortest first.
  template <typename Visit>
  void each_prefix(std::string_view text, size_t at, Visit&& visit) const {
    if (nodes_.empty() || at >= text.size()) return;
    uint32_t node = roots_[static_cast<unsigned char>(text[at])];
    for (size_t length = 1; node != kNone; ++length) {
      if (nodes_[node].value != kNone) visit(length, nodes_[node].value);
      if (at + length >= text.size()) return;
      node = child(node, static_cast<unsigned char>(text[at + length]));
    }
  }

 private:
  struct Node {
    uint32_t first_edge = 0, edges = 0, value = kNone;
  };
  uint32_t child(uint32_t node, unsigned char byte) const {
    uint32_t low = nodes_[node].first_edge;
    const uint32_t end = low + nodes_[node].edges;
    for (uint32_t high = end; low < high;) {
      const uint32_t middle = (low + high) / 2;
      if (labels_[middle] < byte)
        low = middle + 1;
      else
        high = middle;
    }
    return low < end && labels_[low] == byte ? targets_[low] : kNone;
  }

  std::vector<Node> nodes_;
  std::vector<unsigned char> labels_;
  std::vector<uint32_t> targets_;
  uint32_t roots_[256] = {};
};

}  // namespace capstan
