#include "io/tokenizer/piece_table.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

namespace capstan {

PieceTable::PieceTable(size_t expected) : slots_(std::bit_ceil(std::max<size_t>(16, expected * 2))) {}

PieceTable::PieceTable(const std::vector<std::string>& pieces) : PieceTable(pieces.size()) {
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].empty() || add(pieces[id], id)) continue;
    slots_[place_of(pieces[id], XXH3_64bits(pieces[id].data(), pieces[id].size()))].id = id;
  }
}

size_t PieceTable::place_of(std::string_view piece, uint64_t hash) const {
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].text != nullptr &&
         (slots_[at].hash != hash || std::string_view(slots_[at].text, slots_[at].size) != piece))
    at = (at + 1) & (slots_.size() - 1);
  return at;
}

bool PieceTable::add(std::string_view piece, uint32_t id) {
  if (used_ * 2 >= slots_.size()) grow();
  const uint64_t hash = XXH3_64bits(piece.data(), piece.size());
  Slot& slot = slots_[place_of(piece, hash)];
  if (slot.text != nullptr) return false;
  slot = {piece.data() == nullptr ? "" : piece.data(), static_cast<uint32_t>(piece.size()), id, hash};
  ++used_;
  return true;
}

std::optional<uint32_t> PieceTable::find(std::string_view piece) const {
  const Slot& slot = slots_[place_of(piece, XXH3_64bits(piece.data(), piece.size()))];
  if (slot.text == nullptr) return std::nullopt;
  return slot.id;
}

void PieceTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old)
    if (slot.text != nullptr) slots_[place_of({slot.text, slot.size}, slot.hash)] = slot;
}

}  // namespace capstan
