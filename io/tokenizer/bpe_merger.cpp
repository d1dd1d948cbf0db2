#include "io/tokenizer/bpe_merger.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {
namespace {

constexpr uint32_t kEnd = UINT32_MAX, kGone = UINT32_MAX;
constexpr size_t kKeptScratch = size_t{1} << 20;  // symbols

}  // namespace

void BpeMerger::merge(std::span<const uint32_t> symbols, std::vector<uint32_t>& tokens) {
  if (symbols.size() > kScan) return queue(symbols, tokens);
  if (symbols.empty()) return;
  uint32_t ids[kScan], ranks[kScan];
  std::copy(symbols.begin(), symbols.end(), ids);
  for (size_t i = 0; i + 1 < symbols.size(); ++i) ranks[i] = ranks_.find(ids[i], ids[i + 1]);
  merge(ids, ranks, symbols.size(), tokens);
}

void BpeMerger::merge(uint32_t* ids, uint32_t* ranks, size_t count, std::vector<uint32_t>& tokens) const {
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == PairTable::kNone) break;
    ids[best] = results_[ranks[best]];
    --count;
    for (size_t i = best + 1; i < count; ++i) ids[i] = ids[i + 1];
    for (size_t i = best + 1; i + 1 < count; ++i) ranks[i] = ranks[i + 1];
    if (best > 0) ranks[best - 1] = ranks_.find(ids[best - 1], ids[best]);
    if (best + 1 < count) ranks[best] = ranks_.find(ids[best], ids[best + 1]);
  }
  tokens.insert(tokens.end(), ids, ids + count);
}

void BpeMerger::push(uint32_t left) {
  const uint32_t rank = ranks_.find(nodes_[left].id, nodes_[nodes_[left].next].id);
  if (rank == PairTable::kNone) return;
  heap_.push_back(static_cast<uint64_t>(rank) << 32 | left);
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

/// A pair in the queue is out of date when the symbols at its place no longer have its rank.
void BpeMerger::queue(std::span<const uint32_t> symbols, std::vector<uint32_t>& tokens) {
  CAPSTAN_CHECK(symbols.size() < kEnd, "a word of {} symbols", symbols.size());
  const auto count = static_cast<uint32_t>(symbols.size());
  nodes_.clear();
  heap_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    nodes_.push_back({symbols[i], i - 1, i + 1 < count ? i + 1 : kEnd});
    if (i == 0) continue;
    const uint32_t rank = ranks_.find(symbols[i - 1], symbols[i]);
    if (rank != PairTable::kNone) heap_.push_back(static_cast<uint64_t>(rank) << 32 | (i - 1));
  }
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  while (!heap_.empty()) {
    const auto left = static_cast<uint32_t>(heap_.front()), rank = static_cast<uint32_t>(heap_.front() >> 32);
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    Node& node = nodes_[left];
    if (node.id == kGone || node.next == kEnd || ranks_.find(node.id, nodes_[node.next].id) != rank) continue;
    nodes_[node.next].id = kGone;
    node.id = results_[rank];
    node.next = nodes_[node.next].next;
    if (node.next != kEnd) {
      nodes_[node.next].before = left;
      push(left);
    }
    if (left != 0) push(node.before);
  }
  for (uint32_t at = 0; at != kEnd; at = nodes_[at].next) tokens.push_back(nodes_[at].id);
  if (nodes_.capacity() > kKeptScratch) {
    nodes_ = {};
    heap_ = {};
  }
}

}  // namespace capstan
