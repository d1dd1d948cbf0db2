#pragma once
// PieceTable: text of a piece -> its id. Open addressing over xxh3, so that a vocabulary of a million pieces is read in
// a fraction of a second. It stores views: the strings must outlive it and stay where they are.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

class PieceTable {
 public:
  explicit PieceTable(size_t expected = 0);
  /// Pieces by id; empty ones are left out; of two alike the later counts.
  explicit PieceTable(const std::vector<std::string>& pieces);

  /// False, and nothing changes, when the piece is there already.
  bool add(std::string_view piece, uint32_t id);
  std::optional<uint32_t> find(std::string_view piece) const;
  size_t size() const { return used_; }

 private:
  struct Slot {
    const char* text = nullptr;
    uint32_t size = 0, id = 0;
    uint64_t hash = 0;
  };
  size_t place_of(std::string_view piece, uint64_t hash) const;
  void grow();

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

}  // namespace capstan
