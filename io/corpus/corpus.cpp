#include "io/corpus/corpus.h"

#include <unordered_set>

#include "io/corpus/shard.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;

CorpusManifest read_matching_manifest(const fs::path& directory, std::shared_ptr<const Tokenizer>& tokenizer) {
  CorpusManifest manifest = read_manifest(directory);
  tokenizer = load_tokenizer(directory);
  if (tokenizer->hash() != manifest.tokenizer_hash || tokenizer->vocabulary() != manifest.vocabulary ||
      tokenizer->end_of_document() != manifest.end_of_document)
    throw Error::make(ExitCode::bad_data,
                      "{}: tokenizer.json (hash {}) is not the tokenizer that "
                      "this corpus was made with (hash {})",
                      directory.string(), tokenizer->hash(), manifest.tokenizer_hash);
  return manifest;
}

namespace {

constexpr size_t kSizesAtOpen = 256;

void check_size(const fs::path& directory, const ShardRecord& shard) {
  const fs::path path = directory / shard.file;
  const uint64_t size = size_of(open_beneath(directory, shard.file), path);
  if (size != shard.file_size)
    throw Error::make(ExitCode::bad_data, "{}: wanted {} bytes, the file has {}{}: restore it or build again",
                      path.string(), shard.file_size, size, size < shard.file_size ? " (truncated)" : "");
}

/// One reading of the directory instead of a look at each of thousands of files.
void require_shards(const fs::path& directory, const CorpusManifest& manifest) {
  std::unordered_set<std::string> there;
  there.reserve(manifest.train.shards.size() + manifest.validation.shards.size() + 16);
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.is_symlink() || !entry.is_regular_file()) continue;  // from the directory itself: no look at the file
    there.insert(entry.path().filename().string());
  }
  for (const Split which : {Split::train, Split::validation})
    for (const ShardRecord& shard : manifest.split(which).shards)
      if (!there.contains(shard.file)) check_size(directory, shard);  // says what is wrong with it
}

}  // namespace

std::shared_ptr<const Corpus> Corpus::open(const fs::path& directory) {
  std::shared_ptr<Corpus> corpus(new Corpus);
  corpus->directory_ = directory;
  corpus->manifest_ = read_matching_manifest(directory, corpus->tokenizer_);
  require_shards(directory, corpus->manifest_);
  size_t looked_at = 0;
  for (const Split which : {Split::train, Split::validation})
    for (const ShardRecord& shard : corpus->manifest_.split(which).shards)
      if (looked_at++ < kSizesAtOpen) check_size(directory, shard);
  return corpus;
}

void Corpus::check_sizes() const {
  for (const Split which : {Split::train, Split::validation})
    for (const ShardRecord& shard : manifest_.split(which).shards) check_size(directory_, shard);
}

std::string corpus_sample(const Corpus& corpus, Split split, uint64_t tokens) {
  const CorpusManifest& manifest = corpus.manifest();
  const CorpusShard shard(corpus.directory(), manifest.split(split).shards.front(), manifest);
  std::vector<char> chunk(shard.record().chunk_tokens * manifest.token_width());
  shard.read_chunk(0, chunk.data());
  std::vector<uint32_t> ids(std::min(tokens, shard.tokens_in(0)));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = manifest.token_width() == 2 ? reinterpret_cast<const uint16_t*>(chunk.data())[i]
                                         : reinterpret_cast<const uint32_t*>(chunk.data())[i];
  return corpus.tokenizer().decode(ids);
}

}  // namespace capstan
