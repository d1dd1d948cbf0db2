#include "io/corpus/text_set.h"

#include <algorithm>
#include <tuple>

namespace capstan {
namespace {

constexpr uint64_t kFirstSlots = 16;

bool is_free(const Digest128& slot) { return slot.high == 0 && slot.low == 0; }
bool before(const Digest128& a, const Digest128& b) { return std::tie(a.high, a.low) < std::tie(b.high, b.low); }

}  // namespace

/// Rises with the key, so that runs of full slots are sorted. The table was chosen by the top byte: leave it out.
uint64_t TextSet::home(const Table& table, const Digest128& key) {
  const uint64_t fraction = key.high << 8 | key.low >> 56;
  return static_cast<uint64_t>(static_cast<unsigned __int128>(fraction) * table.homes >> 64);
}

bool TextSet::insert_into(Table& table, Digest128 key) {
  uint64_t at = home(table, key);
  while (at < table.slots.size() && !is_free(table.slots[at]) && before(table.slots[at], key)) ++at;
  if (at < table.slots.size() && table.slots[at] == key) return false;
  uint64_t end = at;
  while (end < table.slots.size() && !is_free(table.slots[end])) ++end;
  if (end == table.slots.size()) table.slots.emplace_back();
  std::move_backward(table.slots.begin() + static_cast<long>(at), table.slots.begin() + static_cast<long>(end),
                     table.slots.begin() + static_cast<long>(end) + 1);
  table.slots[at] = key;
  ++table.used;
  return true;
}

void TextSet::grow(Table& table) {
  Table larger;
  larger.slots.reserve(std::max(kFirstSlots, table.slots.size() + table.slots.size() / 4));
  larger.slots.resize(larger.slots.capacity());
  larger.homes = larger.slots.size() - larger.slots.size() / 32;
  for (const Digest128& key : table.slots)
    if (!is_free(key)) insert_into(larger, key);
  table = std::move(larger);
}

bool TextSet::insert(const Digest128& text) {
  const Digest128 key = is_free(text) ? Digest128{0, 1} : text;
  Table& table = tables_[key.high >> 56];
  if ((table.used + 1) * 20 > table.slots.size() * 17) grow(table);
  return insert_into(table, key);
}

uint64_t TextSet::size() const {
  uint64_t total = 0;
  for (const Table& table : tables_) total += table.used;
  return total;
}

uint64_t TextSet::memory_bytes() const {
  uint64_t total = sizeof *this;
  for (const Table& table : tables_) total += table.slots.capacity() * sizeof(Digest128);
  return total;
}

}  // namespace capstan
