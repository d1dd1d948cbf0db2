#pragma once
// Slow and plain BPE for comparison: an encoder that follows the definition word by word and a trainer that encodes the
// whole text anew before every merge.

#include <algorithm>
#include <map>

#include "io/tokenizer/bpe_model.h"

namespace capstan::testing_bpe {

using Tokens = std::vector<uint32_t>;

/// Of a byte-level model that has all bytes.
class PlainEncoder {
 public:
  explicit PlainEncoder(const BpeSpec& spec) : spec_(spec) {
    for (uint32_t id = 0; id < spec.pieces.size(); ++id)
      if (spec.pieces[id].size() == 1) ids_[static_cast<unsigned char>(spec.pieces[id][0])] = id;
    for (size_t rank = 0; rank < spec.merges.size(); ++rank)
      ranks_[{spec.merges[rank].left, spec.merges[rank].right}] = rank;
  }
  /// Merges the pair of least rank, leftmost first, until there is none.
  Tokens encode(std::string_view word) const {
    Tokens symbols;
    for (const char c : word) symbols.push_back(ids_[static_cast<unsigned char>(c)]);
    while (true) {
      size_t best = spec_.merges.size(), place = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks_.find({symbols[i], symbols[i + 1]});
        if (found != ranks_.end() && found->second < best) best = found->second, place = i;
      }
      if (best == spec_.merges.size()) return symbols;
      symbols[place] = spec_.merges[best].result;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
  }

 private:
  const BpeSpec& spec_;
  uint32_t ids_[256] = {};
  std::map<std::pair<uint32_t, uint32_t>, size_t> ranks_;
};

inline Tokens encode_plainly(const BpeSpec& spec, std::string_view word) { return PlainEncoder(spec).encode(word); }

inline std::map<std::string, uint32_t> ids_of(const BpeSpec& spec) {
  std::map<std::string, uint32_t> ids;
  for (uint32_t id = 0; id < spec.pieces.size(); ++id)
    if (!spec.pieces[id].empty()) ids[spec.pieces[id]] = id;
  return ids;
}

/// `bytes`: a spec of the 256 bytes alone.
inline BpeSpec train_plainly(BpeSpec bytes, const std::map<std::string, uint64_t>& words, size_t pieces,
                             uint64_t least_count, size_t longest_piece) {
  BpeSpec spec = std::move(bytes);
  while (spec.pieces.size() < pieces) {
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> counts;
    const PlainEncoder encoder(spec);
    for (const auto& [word, count] : words) {
      const Tokens tokens = encoder.encode(word);
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
    const auto there = std::find(spec.pieces.begin(), spec.pieces.end(), text);
    const auto result = static_cast<uint32_t>(there - spec.pieces.begin());
    if (there == spec.pieces.end()) spec.pieces.push_back(text);
    spec.merges.push_back({left, right, result});
  }
  return spec;
}

}  // namespace capstan::testing_bpe
