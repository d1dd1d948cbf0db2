#pragma once
// HeldOut: the documents of a blend that are validation somewhere and must be trained on nowhere. Corpora may overlap,
// and each was split by its own rule: where by the hash of a document, everything below the largest threshold of the
// blend is held out of all of them, which needs no memory; a corpus split by place gives the list of its held-out
// documents (there are few). A document that such a split cuts through has one hash on both sides, that of the whole,
// so another corpus that has it whole is known to hold text that is held out. What is held out is replaced by ends of
// documents and marked blank, so it is neither read nor predicted.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "io/corpus/corpus.h"
#include "io/corpus/shard.h"

namespace capstan {

class HeldOut {
 public:
  HeldOut() = default;
  /// Reads the document hashes of the validation shards of corpora that are split by place. Error bad_data.
  explicit HeldOut(std::span<const std::shared_ptr<const Corpus>> corpora);

  /// Whether a training shard of this corpus can hold anything that is held out.
  bool concerns(size_t corpus) const { return !concerned_.empty() && concerned_[corpus]; }
  /// Runs [first, end) of tokens of a training shard that are held out.
  std::vector<std::pair<uint64_t, uint64_t>> runs(size_t corpus, const CorpusShard& shard, bool last_shard) const;

 private:
  struct Listed {
    uint64_t hash;
    size_t corpus;
  };
  void list(const Corpus& corpus, size_t number);
  bool holds(uint64_t hash, size_t corpus, bool own) const;

  uint64_t threshold_ = 0;
  std::vector<Listed> listed_;  // by hash
  std::vector<bool> concerned_;
  std::vector<std::optional<uint64_t>> first_;  ///< held-out document of a corpus split by place
};

}  // namespace capstan
