#pragma once
// SourceOrder: in which order one source gives its tokens, whatever the length of a sample. An epoch of a source is cut
// into blocks of equal length; the epoch visits the blocks in a keyed permutation, group by group; within a group the
// blocks are cut into pieces, which a second keyed permutation puts in order. Laid end to end, the pieces of a group
// are a line of tokens, and samples are cut from it one after another.
//
// The clever thing: the place of a source is then two numbers (group, tokens into its line) whatever happened before,
// so the length of samples may change at any time. Nothing is read twice and nothing left out, but for less than a
// sample at the end of a group or an epoch. In the plain case block, piece and sample are equally long, the epoch is
// one group, and a sample is a block. With longer blocks only the group that is under way (kGroup blocks) keeps its old
// pieces after a change; the other groups are cut anew, and a longer sample is again text without a seam.

#include <cstdint>
#include <functional>

#include "io/corpus/keyed_permutation.h"

namespace capstan {

enum class Packing { stream, best_fit };
constexpr const char* name_of(Packing packing) { return packing == Packing::stream ? "stream" : "best-fit"; }

/// How an epoch that begins is cut.
struct SourceCut {
  Packing packing = Packing::stream;
  uint64_t block = 0;  ///< tokens
  bool operator==(const SourceCut&) const = default;
};

/// Where a source stands. group_blocks 0: before its first sample.
struct SourcePosition {
  uint64_t epoch = 0;
  SourceCut cut;              ///< of this epoch
  uint64_t group_first = 0;   ///< in blocks, in the order of the epoch
  uint64_t group_blocks = 0;  ///< of this group
  uint64_t piece = 0;         ///< tokens
  uint64_t offset = 0;        ///< tokens into the line of the group
  bool operator==(const SourcePosition&) const = default;
};

/// A run of tokens inside one block.
struct BlockRun {
  uint64_t block = 0;  ///< as the corpus has them
  uint64_t offset = 0, count = 0;
};

class SourceOrder {
 public:
  static constexpr uint64_t kGroup = 1024;  ///< blocks, when a block holds several samples
  using Blocks = std::function<uint64_t(const SourceCut&)>;

  /// `stride`: tokens by which samples follow one another. `cut`: of epochs that begin from here on.
  /// `blocks` tells how many blocks an epoch of that cut has (at least 1). Not `shuffled`: blocks as they come.
  SourceOrder(uint64_t seed, uint64_t stride, SourceCut cut, SourcePosition start, const Blocks& blocks,
              bool shuffled = true);

  /// Where the sample begins that is the `index`-th from the start on; the end of a group is never a beginning.
  SourcePosition at(uint64_t index) const;
  /// The runs of the sample that begins at a position of at(), in order.
  template <typename F>
  void runs(const SourcePosition& position, F&& use) const {
    for (uint64_t taken = 0; taken < stride_;) {
      const BlockRun run = run_at(position, position.offset + taken, stride_ - taken);
      use(run);
      taken += run.count;
    }
  }
  /// Samples of a whole epoch of the present cut.
  uint64_t samples_per_epoch() const { return samples_in(0, blocks_of(cut_), cut_); }
  uint64_t stride() const { return stride_; }
  uint64_t cut_blocks() const { return cut_blocks_; }
  uint64_t start_blocks() const { return start_blocks_; }
  /// Epochs read at a position, with the part of the last one.
  double epochs_at(const SourcePosition& position) const;
  /// Whether a block was begun before `position` in its epoch: needs no memory of what was read.
  bool visited(const SourcePosition& position, uint64_t block) const;

 private:
  uint64_t blocks_of(const SourceCut& cut) const { return cut == start_.cut ? start_blocks_ : cut_blocks_; }
  bool grouped(const SourceCut& cut) const { return cut.block > stride_ && cut.block % stride_ == 0; }
  uint64_t samples_in(uint64_t first, uint64_t blocks, const SourceCut& cut) const;
  SourcePosition begin_group(uint64_t epoch, const SourceCut& cut, uint64_t first) const;
  SourcePosition within(uint64_t epoch, const SourceCut& cut, uint64_t first, uint64_t index) const;
  uint64_t samples_left(const SourcePosition& position) const;
  BlockRun run_at(const SourcePosition& position, uint64_t token, uint64_t most) const;

  uint64_t seed_, stride_;
  SourceCut cut_;
  SourcePosition start_;
  uint64_t cut_blocks_ = 0, start_blocks_ = 0;
  bool shuffled_;
};

}  // namespace capstan
