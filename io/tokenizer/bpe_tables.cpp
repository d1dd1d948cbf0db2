#include "io/tokenizer/bpe_tables.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr size_t kMostPieces = size_t{1} << 24;

std::string shown_piece(std::string_view piece) {
  std::string text;
  for (const char c : piece.substr(0, 40)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      text += fmt::format("\\x{:02X}", byte);
    else
      text += c;
  }
  return text;
}

/// Calls each(first, second) for the characters (ids) side by side in a piece; false when one has no id.
template <typename Each>
bool each_joined(const BpeTables& tables, std::string_view piece, const Each& each) {
  uint32_t before = kNoPiece;
  for (size_t at = 0; at < piece.size();) {
    const uint32_t size = utf8_at(piece, at).size;
    const std::optional<uint32_t> id = tables.find.find(piece.substr(at, size));
    if (!id) return false;
    if (before != kNoPiece) each(before, *id);
    before = *id;
    at += size;
  }
  return true;
}

}  // namespace

BpeTables::BpeTables(BpeSpec spec_of_model, const std::string& where)
    : spec(std::move(spec_of_model)), find(spec.pieces.size()), ranks(spec.merges.size()) {
  check_pieces(where);
  add_merges(where);
  add_bytes();
  add_joined_characters();
}

void BpeTables::check_pieces(const std::string& where) {
  if (spec.pieces.size() > kMostPieces)
    throw Error::make(ExitCode::bad_data, "{}: {} pieces, at most {} are supported", where, spec.pieces.size(),
                      kMostPieces);
  for (uint32_t id = 0; id < spec.pieces.size(); ++id)
    if (!spec.pieces[id].empty() && !find.add(spec.pieces[id], id))
      throw Error::make(ExitCode::bad_data, "{}: pieces {} and {} are both \"{}\"", where, *find.find(spec.pieces[id]),
                        id, shown_piece(spec.pieces[id]));
  if (spec.unknown && (*spec.unknown >= spec.pieces.size() || spec.pieces[*spec.unknown].empty()))
    throw Error::make(ExitCode::bad_data, "{}: there is no piece of the unknown token's id {}", where, *spec.unknown);
}

void BpeTables::add_merges(const std::string& where) {
  const auto exists = [&](uint32_t id) { return id < spec.pieces.size() && !spec.pieces[id].empty(); };
  results.reserve(spec.merges.size());
  for (const auto& [left, right, result] : spec.merges) {
    const size_t rank = results.size();
    if (!exists(left) || !exists(right) || !exists(result))
      throw Error::make(ExitCode::bad_data, "{}: merge {} is of pieces {}, {} and {}, not all of which exist", where,
                        rank, left, right, result);
    const std::string_view first = spec.pieces[left], second = spec.pieces[right], whole = spec.pieces[result];
    const size_t prefix = spec.continuing_prefix.size();
    if (second.size() < prefix || whole.size() + prefix != first.size() + second.size() || !whole.starts_with(first) ||
        !whole.ends_with(second.substr(prefix)))
      throw Error::make(ExitCode::bad_data, "{}: merge {} joins \"{}\" and \"{}\", but its result is \"{}\"", where,
                        rank, shown_piece(first), shown_piece(second), shown_piece(whole));
    const bool tie = spec.equal_results_tie && !results.empty() && results.back() == result;
    ranks.put(left, right, static_cast<uint32_t>(tie ? rank - 1 : rank));
    if (!tie) results.push_back(result);
  }
}

void BpeTables::add_bytes() {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    byte_ids[byte] = find.find({&text, 1}).value_or(kNoPiece);
    fallback_ids[byte] = find.find(fmt::format("<0x{:02X}>", byte)).value_or(kNoPiece);
  }
  all_bytes = spec.byte_level && spec.continuing_prefix.empty() && spec.end_suffix.empty() &&
              std::find(byte_ids.begin(), byte_ids.end(), kNoPiece) == byte_ids.end();
  if (!all_bytes) return;
  byte_ranks.resize(65536);
  for (uint32_t pair = 0; pair < 65536; ++pair)
    byte_ranks[pair] = ranks.find(byte_ids[pair >> 8], byte_ids[pair & 255]);
  joined = std::make_unique<std::bitset<65536>>();
  for (const uint32_t id : results) {
    const std::string& piece = spec.pieces[id];
    for (size_t i = 1; i < piece.size(); ++i)
      joined->set(static_cast<unsigned char>(piece[i - 1]) << 8 | static_cast<unsigned char>(piece[i]));
  }
}

/// Not when symbols are more than characters: with affixes, or when the pieces of bytes or the unknown one merge.
void BpeTables::add_joined_characters() {
  if (spec.byte_level || !spec.continuing_prefix.empty() || !spec.end_suffix.empty()) return;
  std::vector<bool> special(spec.pieces.size());
  if (spec.unknown) special[*spec.unknown] = true;
  if (spec.byte_fallback)
    for (const uint32_t id : fallback_ids)
      if (id != kNoPiece) special[id] = true;
  for (const auto& [left, right, result] : spec.merges) {
    if (special[left] || special[right]) return;
    const auto add = [&](uint32_t first, uint32_t second) { joined_characters.put(first, second, 1); };
    if (!each_joined(*this, spec.pieces[result], add)) return;
  }
  cuts_characters = true;
}

}  // namespace capstan
