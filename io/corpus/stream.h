#pragma once
// CorpusStream: the samples of one split, in an order that is a pure function of (seed, corpora, settings, cursor). A
// cursor counts samples from the beginning of training; it names the same sample whoever asks, so batch size and number
// of ranks may change between two steps or two runs. In training the blend says which corpus a sample is taken from
// (blend.h) and each corpus gives its own in a keyed permutation, anew in each epoch (stream_order.h); validation is
// read in its natural order, corpus after corpus. When settings change in mid-run, continue_from() goes on where the
// ledger says that each corpus stands (ledger.h).
//
// One background thread reads ahead: prefetch() tells it what will be asked for, without hints it guesses that the
// next call continues the last one. What goes wrong in the thread is thrown by the fill() that asks for it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/corpus/corpus.h"
#include "io/corpus/objective.h"
#include "io/corpus/stream_samples.h"

namespace capstan {

struct StreamOptions {
  uint64_t cache_bytes = 0;           ///< of verified chunks; 0: 32 MiB for training, 1 MiB for validation
  size_t requests = 16;               ///< prefetched and not yet filled; further hints are dropped
  Packing packing = Packing::stream;  ///< of training; validation is always one stream
  uint64_t block = 0;                 ///< tokens, see SampleRequest
  BlendRequest blend = {};            ///< of training
};

/// Where the text of a sample begins.
struct StreamPlace {
  size_t source = 0;   ///< which corpus
  uint64_t epoch = 0;  ///< of that corpus
  uint64_t token = 0;  ///< of the split of that corpus
};

class CorpusStream {
 public:
  /// Opens the first shards. Error config (context too long, tokenizers differ, blend), bad_data, missing_input.
  CorpusStream(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, int64_t context, uint64_t seed,
               const StreamOptions& options = {},
               std::shared_ptr<const Objective> objective = std::make_shared<CausalObjective>());
  ~CorpusStream();

  /// Goes on with a run that stands at `cursor` and will stand at `planned` (0: not known) at its end, before anything
  /// was asked for. True when the order changes at the cursor. Error config, bad_data.
  bool continue_from(const Ledger& before, uint64_t cursor, uint64_t planned);

  int64_t context() const { return context_; }
  uint64_t tokens() const;
  /// Of all corpora together.
  uint64_t samples_per_epoch() const;
  /// `cursor` must not be before the ledger's last segment.
  StreamPlace place(uint64_t cursor) const;
  const Ledger& ledger() const;
  /// What is read of each corpus when the run stands at `cursor`.
  std::vector<SourceReport> report(uint64_t cursor) const;
  const Tokenizer& tokenizer() const;
  const Objective& objective() const { return *objective_; }

  /// A hint that fill(first, count) will be called soon; returns at once.
  void prefetch(uint64_t first, int64_t count);
  /// Fields of samples first .. first + count. May be called from several threads.
  SampleTally fill(uint64_t first, int64_t count, const SampleFields& out);

  /// Seconds that fill() has waited for data, in all.
  double wait_seconds() const;
  /// Chunk cache and tables of packed samples: what this stream holds for good, beyond small change.
  size_t memory_bytes() const;
  /// Names the order and the content: equal digests mean that a cursor names the same sample.
  std::string digest() const;

 private:
  class Reader;
  int64_t context_;
  std::vector<std::shared_ptr<const Corpus>> corpora_;
  std::shared_ptr<const Objective> objective_;
  std::vector<uint16_t> text_bytes_;
  std::string identity_;
  std::unique_ptr<Reader> reader_;
};

}  // namespace capstan
