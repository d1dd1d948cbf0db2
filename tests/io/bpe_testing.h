#pragma once
// Slow and plain BPE for comparison: an encoder that follows the definition word by word and a trainer that encodes the
// whole text anew before every merge.

#include <map>

#include "io/tokenizer/bpe_model.h"

namespace capstan::testing_bpe {

using Tokens = std::vector<uint32_t>;

/// Merges the pair of least rank, leftmost first, until there is none.
inline Tokens merge_plainly(Tokens symbols, const std::vector<BpeSpec::Merge>& merges) {
  std::map<std::pair<uint32_t, uint32_t>, size_t> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank) ranks[{merges[rank].left, merges[rank].right}] = rank;
  while (true) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, place = i;
    }
    if (best == merges.size()) return symbols;
    symbols[place] = merges[best].result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

inline std::map<std::string, uint32_t> ids_of(const BpeSpec& spec) {
  std::map<std::string, uint32_t> ids;
  for (uint32_t id = 0; id < spec.pieces.size(); ++id)
    if (!spec.pieces[id].empty()) ids[spec.pieces[id]] = id;
  return ids;
}

/// Of a byte-level model that has all bytes.
inline Tokens encode_plainly(const BpeSpec& spec, std::string_view word) {
  const auto ids = ids_of(spec);
  Tokens symbols;
  for (const char c : word) symbols.push_back(ids.at(std::string(1, c)));
  return merge_plainly(symbols, spec.merges);
}

/// `bytes`: a spec of the 256 bytes alone.
inline BpeSpec train_plainly(BpeSpec bytes, const std::map<std::string, uint64_t>& words, size_t pieces,
                             uint64_t least_count, size_t longest_piece) {
  BpeSpec spec = std::move(bytes);
  while (spec.pieces.size() < pieces) {
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> counts;
    for (const auto& [word, count] : words) {
      const Tokens tokens = encode_plainly(spec, word);
      for (size_t i = 1; i < tokens.size(); ++i) counts[{tokens[i - 1], tokens[i]}] += count;
    }
    const std::pair<const std::pair<uint32_t, uint32_t>, uint64_t>* best = nullptr;
    for (const auto& entry : counts) {  // in order of ids
      const size_t size = spec.pieces[entry.first.first].size() + spec.pieces[entry.first.second].size();
      if (entry.second < least_count || size > longest_piece) continue;
      if (!best || entry.second > best->second) best = &entry;
    }
    if (!best) break;
    const auto [left, right] = best->first;
    const std::string text = spec.pieces[left] + spec.pieces[right];
    const auto ids = ids_of(spec);
    const auto there = ids.find(text);
    const auto result = there != ids.end() ? there->second : static_cast<uint32_t>(spec.pieces.size());
    if (there == ids.end()) spec.pieces.push_back(text);
    spec.merges.push_back({left, right, result});
  }
  return spec;
}

}  // namespace capstan::testing_bpe
