#include "io/corpus/tokens_held_out.h"

#include <algorithm>
#include <cstring>

#include "io/corpus/digest.h"
#include "io/corpus/document_parser.h"

namespace capstan {
namespace {

/// Text of one document of a shard, as much of it as a hash is taken of.
std::string text_of(const Corpus& corpus, const ShardRecord& record, bool last_document) {
  const CorpusManifest& manifest = corpus.manifest();
  const CorpusShard shard(corpus.directory(), record, manifest);
  const std::vector<uint64_t> offsets = shard.read_document_offsets();
  const size_t document = last_document ? offsets.size() - 2 : 0;
  const uint64_t first = offsets[document], end = std::min<uint64_t>(offsets[document + 1], first + kHashedBytes);
  const uint64_t width = manifest.token_width();
  std::vector<char> chunk(record.chunk_tokens * width);
  std::vector<uint32_t> tokens;
  for (uint64_t at = first; at < end; at = (at / record.chunk_tokens + 1) * record.chunk_tokens) {
    shard.read_chunk(at / record.chunk_tokens, chunk.data());
    const uint64_t begin = at / record.chunk_tokens * record.chunk_tokens;
    for (uint64_t t = at - begin; t < std::min(end - begin, record.chunk_tokens); ++t) {
      uint32_t token = 0;
      std::memcpy(&token, chunk.data() + t * width, width);
      tokens.push_back(token);
    }
  }
  return corpus.tokenizer().decode(tokens);
}

}  // namespace

HeldOut::HeldOut(std::span<const std::shared_ptr<const Corpus>> corpora) {
  if (corpora.size() < 2) return;  // a corpus does not train on its own validation documents
  whole_.resize(corpora.size());
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

/// What a corpus that is split by place holds out, and the document that the split cuts through.
void HeldOut::list(const Corpus& corpus, size_t number) {
  const CorpusManifest& manifest = corpus.manifest();
  for (const ShardRecord& record : manifest.validation.shards)
    for (const uint64_t hash : CorpusShard(corpus.directory(), record, manifest).read_document_hashes())
      listed_.push_back({hash, number});
  if (manifest.train.shards.empty() || manifest.validation.shards.empty()) return;
  std::string text = text_of(corpus, manifest.train.shards.back(), true);
  text += text_of(corpus, manifest.validation.shards.front(), false);
  whole_[number] = xxh3_64(std::string_view(text).substr(0, kHashedBytes));
  listed_.push_back({*whole_[number], number});
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
    const bool across = last_shard && d + 1 == hashes.size() && whole_[corpus];
    const bool held = holds(hashes[d], corpus, !across) || (across && holds(*whole_[corpus], corpus, false));
    if (!held) continue;
    if (!runs.empty() && runs.back().second == offsets[d])
      runs.back().second = offsets[d + 1];
    else
      runs.emplace_back(offsets[d], offsets[d + 1]);
  }
  return runs;
}

}  // namespace capstan
