#pragma once
// DataFeed: hands the trainer its share of each step. The global order of samples does not depend on the ranks: in the
// step that starts at cursor c, rank r of n takes samples c + r*share .. c + (r+1)*share. All microbatches of a step
// are in host memory before its first forward pass, so that the step's sum of loss weights is known before any
// gradient. Ranks of one context parallel group read the same samples; each takes its own tokens of them.

#include <memory>
#include <vector>

#include "core/training_program.h"
#include "io/corpus/stream.h"

namespace capstan {

class DataFeed {
 public:
  /// share: samples of this rank and step.
  DataFeed(CorpusStream& stream, int64_t share, const Mesh& mesh);

  /// Reads this rank's share of the step that starts at `cursor`, and asks for the next one's.
  SampleTally read(uint64_t cursor, uint64_t global_batch);
  /// Reads it alone.
  SampleTally read_share(uint64_t cursor);
  /// Copies samples first .. first + count of what was read into the plan's inputs for microbatch `index`; what these
  /// hold beyond that is given weight 0.
  void place(Program& program, int64_t first, int64_t count, int64_t microbatch, int64_t index = 0) const;
  /// Evaluation: samples `first` .. + count of the stream itself.
  SampleTally read_range(uint64_t first, int64_t count);
  size_t bytes() const;

 private:
  CorpusStream& stream_;
  int64_t share_, context_;
  int rank_;
  std::vector<Extent> runs_;  ///< of a sample's tokens, those of this rank
  std::vector<int32_t> tokens_, targets_, positions_, documents_;
  std::vector<float> weights_;
};

}  // namespace capstan
