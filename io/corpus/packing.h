#pragma once
// Best-fit packing: documents shorter than a sample are put whole into samples, so that none is cut, and little room is
// left over. Longer ones give as many full samples as they hold, and their rest is packed like a short document.
// The clever thing: packing is done within groups of neighbouring documents (about 256 samples each) and is a pure
// function of their lengths, so a sample is found by one look into a table of counts and by packing one group again:
// any sample at any time, in bounded work and memory.
// Largest first, each into the sample with the least room that still holds it.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/corpus/stream_order.h"
#include "io/corpus/tokens.h"

namespace capstan {

/// Part of a document in a sample.
struct PackedPiece {
  uint64_t document = 0;  ///< of the group
  uint64_t first = 0;     ///< token of the group
  uint64_t count = 0;
};

/// Packs one group of documents; its memory is used again by the next pack().
class BestFit {
 public:
  static constexpr uint64_t kSamplesPerGroup = 256, kDocumentsPerGroup = 65536;

  explicit BestFit(uint64_t capacity);
  /// `offsets`: where documents begin, and the end of the last, as in a shard; first entry is token 0 of the group.
  void pack(std::span<const uint64_t> offsets);
  uint64_t samples() const { return full_ + short_samples_; }
  /// Pieces of a sample in the order of the text; together at most capacity tokens.
  void pieces(uint64_t sample, std::vector<PackedPiece>& out) const;
  /// Documents from `first` on that make a group: the index after the last.
  static size_t group_end(std::span<const uint64_t> offsets, size_t first, uint64_t capacity);

 private:
  struct Short {
    uint64_t document, length;
    uint32_t sample;
  };
  uint32_t room_for(uint64_t length);
  void keep_room(uint32_t sample, uint64_t room);

  uint64_t capacity_;
  std::vector<uint64_t> offsets_, full_before_;  // (documents + 1)
  std::vector<Short> shorts_;
  std::vector<uint32_t> short_begin_;  // (short samples + 1), into shorts_
  std::vector<uint32_t> with_room_;    // (capacity + 1): a sample with exactly this room, the others follow in next_
  std::vector<uint32_t> next_;         // (short samples)
  std::vector<uint64_t> rooms_, rooms_left_;  // bits: a sample with this room exists; what each sample has left
  uint64_t full_ = 0, short_samples_ = 0;
};

/// The packed samples of one corpus.
class PackedCorpus {
 public:
  /// Reads the document offsets of all its shards once, to count samples.
  PackedCorpus(CorpusTokens& tokens, size_t corpus, uint64_t capacity);
  uint64_t samples() const { return samples_; }
  /// Tokens offset .. offset + count of a sample, and `ahead` (0 or 1) more: what follows in the document.
  void read(uint64_t sample, uint64_t offset, uint64_t count, uint64_t ahead, uint32_t* out, uint8_t* marks);
  /// Shard and token in the shard at which a sample begins.
  uint64_t first_token(uint64_t sample);
  size_t memory_bytes() const { return groups_.size() * sizeof(Group); }

 private:
  struct Group {
    uint64_t first_sample;
    uint32_t shard;
    uint32_t first_document;
  };
  struct Packed {
    size_t group = SIZE_MAX;
    uint64_t last_use = 0;
    std::unique_ptr<BestFit> layout;
    uint64_t first_token = 0;    // of the line of all corpora
    std::vector<uint64_t> ends;  // of the documents of the group, in its tokens
  };
  const Packed& packed(size_t group);
  const Packed& find(uint64_t sample);

  CorpusTokens* tokens_;
  uint64_t capacity_, samples_ = 0;
  std::vector<Group> groups_;
  std::array<Packed, 4> kept_;
  uint64_t clock_ = 0;
  std::vector<PackedPiece> pieces_;
};

}  // namespace capstan
