#include "io/corpus/corpus.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <bit>

#include "io/corpus/digest.h"
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

/// Hashes of names: where two share one, a missing file is found when it is opened instead of now.
class NameSet {
 public:
  explicit NameSet(const std::vector<uint64_t>& hashes) : slots_(std::bit_ceil(2 * hashes.size() + 1)) {
    for (const uint64_t hash : hashes) slots_[place_of(hash)] = hash;
  }
  bool contains(std::string_view name) const {
    const uint64_t hash = hash_of(name);
    return slots_[place_of(hash)] == hash;
  }
  static uint64_t hash_of(std::string_view name) { return xxh3_64(name) | 1; }  // 0 is an empty slot

 private:
  size_t place_of(uint64_t hash) const {
    size_t at = hash >> 8 & (slots_.size() - 1);
    while (slots_[at] != 0 && slots_[at] != hash) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::vector<uint64_t> slots_;
};

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

/// One reading of the directory instead of a look at each of thousands of files. Files whose kind the directory does
/// not tell are left out: they are looked at.
NameSet files_in(const Directory& directory) {
  std::vector<uint64_t> hashes;
  if (directory)
    while (const dirent* entry = readdir(directory.get()))
      if (entry->d_type == DT_REG) hashes.push_back(NameSet::hash_of(entry->d_name));
  return NameSet(hashes);
}

bool has_size(const FileDescriptor& directory, const ShardRecord& shard) {
  struct stat status {};
  return fstatat(directory.get(), shard.file.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode) &&
         static_cast<uint64_t>(status.st_size) == shard.file_size;
}

/// Of the first `most` shards.
void check_first_sizes(const fs::path& path, const CorpusManifest& manifest, size_t most) {
  const FileDescriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const Split which : {Split::train, Split::validation})
    for (const ShardRecord& shard : manifest.split(which).shards) {
      if (most-- == 0) return;
      if (!has_size(directory, shard)) check_size(path, shard);  // says what is wrong
    }
}

}  // namespace

std::shared_ptr<const Corpus> Corpus::open(const fs::path& directory) {
  std::shared_ptr<Corpus> corpus(new Corpus);
  corpus->directory_ = directory;
  corpus->manifest_ = read_matching_manifest(directory, corpus->tokenizer_);
  check_first_sizes(directory, corpus->manifest_, kSizesAtOpen);
  return corpus;
}

void Corpus::check_sizes() const { check_first_sizes(directory_, manifest_, SIZE_MAX); }

void Corpus::require_shards() const {
  if (manifest_.train.shards.size() + manifest_.validation.shards.size() <= kSizesAtOpen) return;  // seen by open()
  const NameSet there = files_in(Directory(opendir(directory_.c_str())));
  for (const Split which : {Split::train, Split::validation})
    for (const ShardRecord& shard : manifest_.split(which).shards)
      if (!there.contains(shard.file)) check_size(directory_, shard);  // says what is wrong
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
