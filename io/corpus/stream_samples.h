#pragma once
// SampleSequence: cursor -> sample, for a whole run. Puts the blend (which source, which of its samples) before the
// order of each source (where in its text), and keeps the ledger. It knows manifests only: no shard is opened, nothing
// is read, so a corpus of any size gives any of its samples at once. Used by one thread; copies are cheap.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/corpus/blend.h"
#include "io/corpus/ledger.h"
#include "io/corpus/stream_order.h"

namespace capstan {

/// What the order needs to know of a corpus.
struct SampleSource {
  std::string corpus;            ///< see LedgerSource
  std::string name;              ///< for messages
  std::string split = "train";   ///< the same
  uint64_t tokens = 0;           ///< of the split
  uint64_t documents = 0;        ///< the same
  SourceOrder::Blocks blocks{};  ///< of best-fit packing; not set: only `stream`
};

struct SampleRequest {
  uint64_t stride = 0;  ///< tokens by which samples follow one another
  Packing packing = Packing::stream;
  uint64_t block = 0;  ///< tokens of a block; 0: a sample
  BlendRequest blend;
  std::optional<uint64_t> seed;  ///< absent: natural order
};

/// What a run reads of one source, up to a cursor.
struct SourceReport {
  std::string name, corpus;
  uint64_t tokens = 0, documents = 0;  ///< that it has
  uint64_t samples_per_epoch = 0;
  double share = 0;  ///< of the samples from here on
  uint64_t samples_read = 0, tokens_read = 0;
  double epochs_read = 0;
};

class SampleSequence {
 public:
  struct Place {
    size_t source = 0;
    uint64_t index = 0;  ///< of the source's samples since the segment began
    SourcePosition position;
  };

  /// `before`: the ledger of the run so far, and `cursor` where it stands. Error config: a source too small for one
  /// sample, shares that cannot be.
  SampleSequence(std::vector<SampleSource> sources, SampleRequest request, Ledger before = {}, uint64_t cursor = 0);

  size_t sources() const { return orders_.size(); }
  const SourceOrder& order(size_t source) const { return orders_[source]; }
  const LedgerSegment& segment() const { return ledger_.segments.back(); }
  const Ledger& ledger() const { return ledger_; }
  /// Whether the cursor of the constructor begins a new segment of a run that was under way.
  bool changed() const { return changed_; }
  /// `cursor` is not before the present segment.
  Place at(uint64_t cursor);
  /// Samples of one epoch of every source together.
  uint64_t samples_per_epoch() const;
  /// For each source of the blend, what was read when the run stands at `cursor`.
  std::vector<SourceReport> report(uint64_t cursor);

 private:
  SourceCut cut_for(const SampleSource& source) const;
  std::string digest_of_request() const;
  void make_orders(const std::vector<LedgerSource>& wanted);
  LedgerSegment next_segment(uint64_t cursor);

  std::vector<SampleSource> sources_;
  SampleRequest request_;
  Ledger ledger_;
  bool changed_ = false;
  std::vector<SourceOrder> orders_;
  std::vector<BlendSequence> blend_;  // one; a vector, so that it can be made late
};

/// Blocks of an epoch of `tokens` tokens that are read as one stream: the last token is only ever a target.
inline uint64_t stream_blocks(uint64_t tokens, uint64_t block) { return tokens == 0 ? 0 : (tokens - 1) / block; }

}  // namespace capstan
