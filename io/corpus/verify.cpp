// verify_corpus: every chunk of every shard, and whether the ends of documents stand where the offsets say.
#include "io/corpus/corpus.h"
#include "io/corpus/metadata_file.h"
#include "io/corpus/shard.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

class Verification {
 public:
  Verification(const fs::path& directory, const CorpusManifest& manifest, size_t limit,
               const std::function<void(const CorpusVerifyProgress&)>& progress)
      : directory_(directory), manifest_(manifest), limit_(limit), progress_(progress) {
    for (const Split which : {Split::train, Split::validation})
      for (const ShardRecord& shard : manifest.split(which).shards) state_.total += shard.file_size;
  }

  std::vector<CorpusProblem> run() {
    for (const Split which : {Split::train, Split::validation})
      for (const ShardRecord& record : manifest_.split(which).shards) {
        if (full()) return std::move(problems_);
        const uint64_t before = state_.bytes;
        attempt([&] { check_shard(record); });
        state_.bytes = before + record.file_size;
        if (progress_) progress_(state_);
      }
    return std::move(problems_);
  }

 private:
  bool full() const { return problems_.size() >= limit_; }

  void attempt(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      problems_.push_back({error.code(), error.what()});
    }
  }

  void check_shard(const ShardRecord& record) {
    const CorpusShard shard(directory_, record, manifest_);
    std::vector<uint64_t> offsets;
    attempt([&] { offsets = shard.read_document_offsets(); });
    attempt([&] { static_cast<void>(shard.read_document_hashes()); });
    if (record.metadata_size > 0) attempt([&] { verify_metadata(directory_, record); });
    std::vector<char> chunk(record.chunk_tokens * manifest_.token_width());
    size_t next = 1;  // the next entry of offsets that a document's end must meet
    bool whole = !offsets.empty();
    for (uint64_t i = 0; i < shard.chunks() && !full(); ++i) {
      const size_t before = problems_.size();
      attempt([&] {
        shard.read_chunk(i, chunk.data());
        if (whole) check_ends(shard, i, chunk.data(), offsets, next);
      });
      whole = whole && problems_.size() == before;
      state_.bytes += shard.tokens_in(i) * manifest_.token_width();
      if (progress_) progress_(state_);
    }
  }

  void check_ends(const CorpusShard& shard, uint64_t chunk, const void* data, const std::vector<uint64_t>& offsets,
                  size_t& next) const {
    const uint64_t first = chunk * shard.record().chunk_tokens;
    for (uint64_t i = 0; i < shard.tokens_in(chunk); ++i) {
      const uint32_t token =
          manifest_.token_width() == 2 ? static_cast<const uint16_t*>(data)[i] : static_cast<const uint32_t*>(data)[i];
      const bool ends = token == manifest_.end_of_document, wanted = first + i + 1 == offsets[next];
      if (ends != wanted)
        throw Error::make(ExitCode::bad_data,
                          "{}: chunk {}: document_offsets and the tokens "
                          "disagree whether a document ends at token {}",
                          (directory_ / shard.record().file).string(), chunk, first + i);
      if (ends && next + 1 < offsets.size()) ++next;
    }
  }

  fs::path directory_;
  const CorpusManifest& manifest_;
  size_t limit_;
  const std::function<void(const CorpusVerifyProgress&)>& progress_;
  CorpusVerifyProgress state_;
  std::vector<CorpusProblem> problems_;
};

}  // namespace

std::vector<CorpusProblem> verify_corpus(const fs::path& directory, size_t limit,
                                         const std::function<void(const CorpusVerifyProgress&)>& progress) {
  std::shared_ptr<const Tokenizer> tokenizer;
  const CorpusManifest manifest = read_matching_manifest(directory, tokenizer);
  return Verification(directory, manifest, limit, progress).run();
}

}  // namespace capstan
