#pragma once
// CorpusStream: the samples of one split, in an order that is a pure function of (seed, corpora, context). A sample is
// context + 1 consecutive tokens; sample k of the epoch starts at token k * context. A cursor counts samples from the
// beginning of training; it names the same sample whoever asks, so batch size and number of ranks may change between
// two steps or two runs. In training each epoch visits the samples in its own keyed permutation; validation is read in
// its natural order. Epochs follow one another without end.
//
// One background thread reads ahead: prefetch() tells it what will be asked for, without hints it guesses that the
// next call continues the last one. What goes wrong in the thread is thrown by the fill() that asks for it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/corpus.h"
#include "io/objective.h"

namespace capstan {

struct StreamOptions {
  uint64_t cache_bytes = 0;  ///< of verified chunks; 0: 32 MiB for training, 1 MiB for validation
  size_t requests = 16;      ///< prefetched and not yet filled; further hints are dropped
};

class CorpusStream {
 public:
  /// Opens the first shards. Error config (context too long, tokenizers differ), bad_data, missing_input.
  CorpusStream(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, int64_t context, uint64_t seed,
               const StreamOptions& options = {},
               std::shared_ptr<const Objective> objective = std::make_shared<CausalObjective>());
  ~CorpusStream();

  int64_t context() const;
  uint64_t tokens() const;
  uint64_t samples_per_epoch() const;
  /// Which sample of its epoch the cursor names.
  uint64_t sample_at(uint64_t cursor) const;
  const Tokenizer& tokenizer() const;
  const Objective& objective() const;

  /// A hint that fill(first, count) will be called soon; returns at once.
  void prefetch(uint64_t first, int64_t count);
  /// Fields of samples first .. first + count. May be called from several threads.
  SampleTally fill(uint64_t first, int64_t count, const SampleFields& out);

  /// Seconds that fill() has waited for data, in all.
  double wait_seconds() const;
  /// Chunk cache: what this stream holds for good, beyond small change.
  size_t memory_bytes() const;
  /// Names the order and the content: equal digests mean that a cursor names the same sample.
  const std::string& digest() const { return digest_; }

 private:
  class Reader;
  std::vector<std::shared_ptr<const Corpus>> corpora_;
  std::shared_ptr<const Objective> objective_;
  std::vector<uint16_t> text_bytes_;
  std::string digest_;
  std::unique_ptr<Reader> reader_;
};

}  // namespace capstan
