#include "io/corpus/tokens_held_out.h"

#include <algorithm>

namespace capstan {
HeldOut::HeldOut(std::span<const std::shared_ptr<const Corpus>> corpora) {
  if (corpora.size() < 2) return;  // a corpus does not train on its own validation documents
  first_.resize(corpora.size());
  for (size_t c = 0; c < corpora.size(); ++c) {
    const SplitRule& rule = corpora[c]->manifest().split_rule;
    if (rule.by_document)
      threshold_ = std::max(threshold_, rule.threshold);
    else
      list(*corpora[c], c);
  }
  std::sort(listed_.begin(), listed_.end(),
            [](const Listed& a, const Listed& b) { return std::pair(a.hash, a.corpus) < std::pair(b.hash, b.corpus); });
  for (size_t c = 0; c < corpora.size(); ++c) {
    const SplitRule& rule = corpora[c]->manifest().split_rule;
    concerned_.push_back(!listed_.empty() || (rule.by_document ? rule.threshold : 0) < threshold_);
  }
}

/// What a corpus that is split by place holds out.
void HeldOut::list(const Corpus& corpus, size_t number) {
  const CorpusManifest& manifest = corpus.manifest();
  for (const ShardRecord& record : manifest.validation.shards)
    for (const uint64_t hash : CorpusShard(corpus.directory(), record, manifest).read_document_hashes()) {
      if (!first_[number]) first_[number] = hash;
      listed_.push_back({hash, number});
    }
}

/// `own`: what its own corpus holds out counts too.
bool HeldOut::holds(uint64_t hash, size_t corpus, bool own) const {
  if (hash < threshold_) return true;
  for (auto it = std::lower_bound(listed_.begin(), listed_.end(), hash,
                                  [](const Listed&listed, uint64_t wanted) { return listed.hash < wanted; });
       it != listed_.end() && it->hash == hash; ++it)
    if (own || it->corpus != corpus) return true;
  return false;
}

std::vector<std::pair<uint64_t, uint64_t>> HeldOut::runs(size_t corpus, const CorpusShard& shard,
                                                         bool last_shard) const {
  std::vector<std::pair<uint64_t, uint64_t>> runs;
  const std::vector<uint64_t> hashes = shard.read_document_hashes(), offsets = shard.read_document_offsets();
  for (size_t d = 0; d < hashes.size(); ++d) {
    // Its own corpus may have held out only the end of this document: then here is the beginning, which is to be read.
    const bool cut = last_shard && d + 1 == hashes.size() && first_[corpus] == hashes[d];
    if (!holds(hashes[d], corpus, !cut)) continue;
    if (!runs.empty() && runs.back().second == offsets[d])
      runs.back().second = offsets[d + 1];
    else
      runs.emplace_back(offsets[d], offsets[d + 1]);
  }
  return runs;
}

}  // namespace capstan
