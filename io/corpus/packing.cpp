#include "io/corpus/packing.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace capstan {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

}  // namespace

BestFit::BestFit(uint64_t capacity) : capacity_(capacity) {
  CAPSTAN_CHECK(capacity >= 1 && capacity < kNone, "samples of {} tokens", capacity);
  with_room_.resize(capacity + 1, kNone);
  rooms_.resize(capacity / 64 + 1);
}

size_t BestFit::group_end(std::span<const uint64_t> offsets, size_t first, uint64_t capacity) {
  size_t end = first + 1;
  while (end + 1 < offsets.size() && end - first < kDocumentsPerGroup &&
         offsets[end] - offsets[first] < kSamplesPerGroup * capacity)
    ++end;
  return end;
}

/// A sample with the least room that holds `length`, taken out of the table; kNone when there is none.
uint32_t BestFit::room_for(uint64_t length) {
  size_t word = length / 64;
  uint64_t bits = rooms_[word] & (~uint64_t{0} << (length % 64));
  while (bits == 0 && ++word < rooms_.size()) bits = rooms_[word];
  if (bits == 0) return kNone;
  const size_t room = word * 64 + static_cast<size_t>(std::countr_zero(bits));
  const uint32_t sample = with_room_[room];
  with_room_[room] = next_[sample];
  if (with_room_[room] == kNone) rooms_[word] &= ~(uint64_t{1} << (room % 64));
  return sample;
}

void BestFit::keep_room(uint32_t sample, uint64_t room) {
  rooms_left_[sample] = room;
  if (room == 0) return;
  next_[sample] = with_room_[room];
  with_room_[room] = sample;
  rooms_[room / 64] |= uint64_t{1} << (room % 64);
}

void BestFit::pack(std::span<const uint64_t> offsets) {
  offsets_.assign(offsets.begin(), offsets.end());
  full_before_.assign(1, 0);
  shorts_.clear(), next_.clear(), rooms_left_.clear();
  std::fill(with_room_.begin(), with_room_.end(), kNone);
  std::fill(rooms_.begin(), rooms_.end(), 0);
  for (size_t d = 0; d + 1 < offsets_.size(); ++d) {
    const uint64_t length = offsets_[d + 1] - offsets_[d];
    full_before_.push_back(full_before_.back() + length / capacity_);
    if (length % capacity_ > 0) shorts_.push_back({d, length % capacity_, kNone});
  }
  full_ = full_before_.back();
  std::sort(shorts_.begin(), shorts_.end(), [](const Short& a, const Short& b) {
    return std::pair(b.length, a.document) < std::pair(a.length, b.document);
  });
  for (Short& document : shorts_) {
    document.sample = room_for(document.length);
    if (document.sample == kNone) {
      document.sample = static_cast<uint32_t>(next_.size());
      next_.push_back(kNone);
      rooms_left_.push_back(capacity_);
    }
    keep_room(document.sample, rooms_left_[document.sample] - document.length);
  }
  short_samples_ = next_.size();
  std::sort(shorts_.begin(), shorts_.end(), [](const Short& a, const Short& b) {
    return std::pair(a.sample, a.document) < std::pair(b.sample, b.document);
  });
  short_begin_.assign(short_samples_ + 1, 0);
  for (const Short& document : shorts_) ++short_begin_[document.sample + 1];
  for (size_t i = 0; i < short_samples_; ++i) short_begin_[i + 1] += short_begin_[i];
}

void BestFit::pieces(uint64_t sample, std::vector<PackedPiece>& out) const {
  CAPSTAN_CHECK(sample < samples(), "packed sample {} of {}", sample, samples());
  out.clear();
  const uint64_t base = offsets_.front();
  if (sample < full_) {
    const auto after = std::upper_bound(full_before_.begin(), full_before_.end(), sample);
    const uint64_t document = static_cast<uint64_t>(after - full_before_.begin()) - 1;
    const uint64_t first = offsets_[document] - base + (sample - full_before_[document]) * capacity_;
    out.push_back({document, first, capacity_});
    return;
  }
  for (uint32_t i = short_begin_[sample - full_]; i < short_begin_[sample - full_ + 1]; ++i) {
    const Short& piece = shorts_[i];
    out.push_back({piece.document, offsets_[piece.document + 1] - base - piece.length, piece.length});
  }
}

PackedCorpus::PackedCorpus(CorpusTokens& tokens, size_t corpus, uint64_t capacity)
    : tokens_(&tokens), capacity_(capacity) {
  BestFit layout(capacity);
  for (size_t shard = 0; shard < tokens.shards(); ++shard) {
    if (tokens.corpus_of(shard) != corpus) continue;
    const std::vector<uint64_t>& offsets = tokens.document_offsets(shard);
    CAPSTAN_CHECK(offsets.size() < UINT32_MAX, "{} documents in a shard", offsets.size());
    for (size_t first = 0; first + 1 < offsets.size();) {
      const size_t end = BestFit::group_end(offsets, first, capacity);
      layout.pack(std::span(offsets).subspan(first, end - first + 1));
      groups_.push_back({samples_, static_cast<uint32_t>(shard), static_cast<uint32_t>(first)});
      samples_ += layout.samples();
      first = end;
    }
  }
}

const PackedCorpus::Packed& PackedCorpus::packed(size_t group) {
  ++clock_;
  Packed* oldest = &kept_[0];
  for (Packed& kept : kept_) {
    if (kept.group == group) {
      kept.last_use = clock_;
      return kept;
    }
    if (kept.last_use < oldest->last_use) oldest = &kept;
  }
  const Group& wanted = groups_[group];
  oldest->group = SIZE_MAX;
  const std::vector<uint64_t>& offsets = tokens_->document_offsets(wanted.shard);
  const size_t end = BestFit::group_end(offsets, wanted.first_document, capacity_);
  const auto own = std::span(offsets).subspan(wanted.first_document, end - wanted.first_document + 1);
  if (!oldest->layout) oldest->layout = std::make_unique<BestFit>(capacity_);
  oldest->layout->pack(own);
  oldest->ends.clear();
  for (const uint64_t offset : own.subspan(1)) oldest->ends.push_back(offset - own.front());
  oldest->first_token = tokens_->first_token(wanted.shard) + own.front();
  oldest->last_use = clock_;
  oldest->group = group;
  return *oldest;
}

/// The group of a sample, and its pieces in pieces_.
const PackedCorpus::Packed& PackedCorpus::find(uint64_t sample) {
  CAPSTAN_CHECK(sample < samples_, "packed sample {} of {}", sample, samples_);
  const auto after = std::upper_bound(groups_.begin(), groups_.end(), sample,
                                      [](uint64_t k, const Group& group) { return k < group.first_sample; });
  const size_t group = static_cast<size_t>(after - groups_.begin()) - 1;
  const Packed& kept = packed(group);
  kept.layout->pieces(sample - groups_[group].first_sample, pieces_);
  return kept;
}

uint64_t PackedCorpus::first_token(uint64_t sample) {
  const Packed& kept = find(sample);
  return kept.first_token + pieces_.front().first;
}

void PackedCorpus::read(uint64_t sample, uint64_t offset, uint64_t count, uint64_t ahead, uint32_t* out,
                        uint8_t* marks) {
  const Packed& kept = find(sample);
  std::fill(out, out + count + ahead, tokens_->end_of_document());
  std::fill(marks, marks + count + ahead, static_cast<uint8_t>(kSeam | kBlank));
  uint64_t at = 0;  // of the piece in the sample
  for (const PackedPiece& piece : pieces_) {
    const uint64_t from = std::max(at, offset), to = std::min(at + piece.count, offset + count);
    if (from < to) {
      const uint64_t first = piece.first + (from - at), last = piece.first + (to - at);
      // The token after the last one wanted, when it is of the same document.
      const uint64_t more = to == offset + count && last < kept.ends[piece.document] ? ahead : 0;
      tokens_->read(kept.first_token + first, to - from + more, out + (from - offset), marks + (from - offset));
      if (from == at && from > offset) marks[from - offset] |= kSeam;
    }
    at += piece.count;
  }
}

}  // namespace capstan
