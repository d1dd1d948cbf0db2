#include "io/corpus/stream_order.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/philox.h"

namespace capstan {
namespace {

/// Key of the permutation of pieces within a group.
uint64_t group_key(uint64_t seed, uint64_t epoch, uint64_t group_first) {
  const PhiloxBlock words = philox(seed ^ 0x67726f7570ull, epoch, group_first);
  return words[0] | static_cast<uint64_t>(words[1]) << 32;
}

}  // namespace

SourceOrder::SourceOrder(uint64_t seed, uint64_t stride, SourceCut cut, SourcePosition start, const Blocks& blocks,
                         bool shuffled)
    : seed_(seed), stride_(stride), cut_(cut), start_(start), shuffled_(shuffled) {
  const auto refuse = [&] {
    throw Error::make(ExitCode::bad_data,
                      "the ledger of samples is damaged: a source stands at block {} + {} of {} (blocks of {} and {} "
                      "tokens, pieces of {}), token {}",
                      start_.group_first, start_.group_blocks, start_blocks_, cut.block, start_.cut.block, start_.piece,
                      start_.offset);
  };
  CAPSTAN_CHECK(stride >= 1, "samples of {} tokens", stride);
  if (cut.block == 0) refuse();
  cut_blocks_ = blocks(cut_);
  if (cut_blocks_ == 0) refuse();
  if (start_.group_blocks == 0) start_ = begin_group(start_.epoch, cut_, 0);
  if (start_.cut.block == 0 || start_.piece == 0 || start_.cut.block % start_.piece != 0) refuse();
  start_blocks_ = blocks(start_.cut);
  if (start_.group_blocks == 0 || start_.group_first >= start_blocks_ ||
      start_.group_blocks > start_blocks_ - start_.group_first ||
      start_.offset > start_.group_blocks * start_.cut.block)
    refuse();
}

/// The group of an epoch that begins with block `first`: kGroup blocks cut into samples, or else all that are left.
SourcePosition SourceOrder::begin_group(uint64_t epoch, const SourceCut& cut, uint64_t first) const {
  const uint64_t left = blocks_of(cut) - first;
  return {epoch, cut, first, grouped(cut) ? std::min(left, kGroup) : left, grouped(cut) ? stride_ : cut.block, 0};
}

/// Samples of the groups that `blocks` blocks make.
uint64_t SourceOrder::samples_in(uint64_t first, uint64_t blocks, const SourceCut& cut) const {
  return (blocks - first) * cut.block / stride_;  // groups are whole numbers of samples, or one group is all
}

uint64_t SourceOrder::samples_left(const SourcePosition& position) const {
  return (position.group_blocks * position.cut.block - position.offset) / stride_;
}

/// Sample `index` of the groups from block `first` of an epoch on.
SourcePosition SourceOrder::within(uint64_t epoch, const SourceCut& cut, uint64_t first, uint64_t index) const {
  const uint64_t per_group = grouped(cut) ? kGroup * (cut.block / stride_) : UINT64_MAX;
  SourcePosition position = begin_group(epoch, cut, first + index / per_group * kGroup);
  position.offset = index % per_group * stride_;
  return position;
}

SourcePosition SourceOrder::at(uint64_t index) const {
  const uint64_t here = samples_left(start_);
  SourcePosition position = start_;
  if (index < here) {
    position.offset += index * stride_;
    return position;
  }
  index -= here;
  const uint64_t next = start_.group_first + start_.group_blocks;
  const uint64_t rest = next < start_blocks_ ? samples_in(next, start_blocks_, start_.cut) : 0;
  if (index < rest) return within(start_.epoch, start_.cut, next, index);
  index -= rest;
  const uint64_t epoch = samples_per_epoch();
  CAPSTAN_CHECK(epoch > 0, "an epoch of {} blocks of {} holds no sample of {}", cut_blocks_, cut_.block, stride_);
  return within(start_.epoch + 1 + index / epoch, cut_, 0, index % epoch);
}

BlockRun SourceOrder::run_at(const SourcePosition& position, uint64_t token, uint64_t most) const {
  const uint64_t pieces = position.cut.block / position.piece;  // of a block
  uint64_t piece = token / position.piece;
  const uint64_t inside = token % position.piece;
  const uint64_t count = std::min(position.piece - inside, most);
  if (!shuffled_) return {position.group_first + piece / pieces, piece % pieces * position.piece + inside, count};
  if (pieces > 1)
    piece = KeyedPermutation(position.group_blocks * pieces, group_key(seed_, position.epoch, position.group_first),
                             position.epoch)(piece);
  const KeyedPermutation blocks(blocks_of(position.cut), seed_, position.epoch);
  return {blocks(position.group_first + piece / pieces), piece % pieces * position.piece + inside, count};
}

double SourceOrder::epochs_at(const SourcePosition& position) const {
  const double tokens = static_cast<double>(position.group_first) * static_cast<double>(position.cut.block) +
                        static_cast<double>(position.offset);
  return static_cast<double>(position.epoch) +
         tokens / (static_cast<double>(blocks_of(position.cut)) * static_cast<double>(position.cut.block));
}

bool SourceOrder::visited(const SourcePosition& position, uint64_t block) const {
  const uint64_t at = KeyedPermutation(blocks_of(position.cut), seed_, position.epoch).inverse(block);
  if (at < position.group_first) return true;
  if (at >= position.group_first + position.group_blocks) return false;
  const uint64_t pieces = position.cut.block / position.piece, first = (at - position.group_first) * pieces;
  const KeyedPermutation inner(position.group_blocks * pieces, group_key(seed_, position.epoch, position.group_first),
                               position.epoch);
  for (uint64_t piece = first; piece < first + pieces; ++piece)
    if ((pieces > 1 ? inner.inverse(piece) : piece) * position.piece < position.offset) return true;
  return false;
}

}  // namespace capstan
