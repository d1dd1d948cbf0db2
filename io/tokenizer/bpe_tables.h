#pragma once
// What all encoders of one BPE model read: ids of symbols, the rank and result of each pair, and which characters
// pieces have side by side. Immutable once made. For the model's own files only.

#include <array>
#include <bitset>
#include <memory>

#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/bpe_pair_table.h"
#include "io/tokenizer/piece_table.h"

namespace capstan {

constexpr uint32_t kNoRank = PairTable::kNone, kNoPiece = UINT32_MAX;

struct BpeTables {
  BpeTables(BpeSpec spec_of_model, const std::string& where);

  BpeSpec spec;
  PieceTable find;
  PairTable ranks;
  std::vector<uint32_t> results;               ///< by rank
  std::array<uint32_t, 256> byte_ids{};        ///< of the pieces of one byte (ASCII only, unless byte-level)
  std::array<uint32_t, 256> fallback_ids{};    ///< of <0x00> .. <0xFF>
  bool all_bytes = false;                      ///< byte-level, no byte is missing, no affixes: the quick way
  std::vector<uint32_t> byte_ranks;            ///< of two bytes, when all_bytes
  std::unique_ptr<std::bitset<65536>> joined;  ///< two bytes that a merged piece has side by side, when all_bytes
  bool cuts_characters = false;                ///< whether joined_characters may be used
  PairTable joined_characters;                 ///< likewise ids of two characters

 private:
  void check_pieces(const std::string& where);
  void add_merges(const std::string& where);
  void add_bytes();
  void add_joined_characters();
};

}  // namespace capstan
