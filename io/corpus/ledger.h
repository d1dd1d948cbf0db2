#pragma once
// Ledger: which samples a run has read, exactly and in a few lines. The order of a source is a pure function, so what
// was read from it is told by where it began and where it stands: two SourcePositions. The ledger is a list of
// segments; a new one begins whenever what defines the order changes (length of a sample, packing, shares, corpora),
// and holds where every source stood then. So consumed = for each source, from its position in one segment to that in
// the next, and in the last one up to the cursor. A checkpoint carries it beside the cursor; both are of one step, so a
// killed run counts nothing twice and forgets nothing.
// Rule: a source that leaves the blend stays in the ledger with share 0, so that it can come back where it left.

#include <cstdint>
#include <string>
#include <vector>

#include "io/corpus/stream_order.h"

namespace capstan {

struct LedgerSource {
  std::string corpus;    ///< digest of its manifest, "+2" when the same corpus is listed a second time
  std::string name;      ///< for people: the directory
  uint64_t share = 0;    ///< of all shares in the segment
  SourceCut cut;         ///< of epochs that begin in this segment
  SourcePosition start;  ///< where it stood when the segment began
  uint64_t cut_blocks = 0, start_blocks = 0;  ///< of an epoch cut so: what a position means without the corpus
  uint64_t samples = 0;                       ///< read before the segment
  uint64_t tokens = 0;                        ///< the same in tokens
  bool operator==(const LedgerSource&) const = default;
};

struct LedgerSegment {
  uint64_t first = 0;   ///< cursor of its first sample
  uint64_t stride = 0;  ///< tokens by which samples follow one another
  std::string request;  ///< digest of what the user asked for: another one begins a new segment
  std::vector<LedgerSource> sources;
  bool operator==(const LedgerSegment&) const = default;
};

struct Ledger {
  std::vector<LedgerSegment> segments;

  std::string to_json() const;
  /// Error bad_data naming `where`.
  static Ledger from_json(const std::string& text, const std::string& where);
  bool operator==(const Ledger&) const = default;
};

}  // namespace capstan
