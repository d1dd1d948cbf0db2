#pragma once
// manifest.json of a corpus directory: what the corpus is made of, and the digest of everything that vouches for the
// rest. The chain: the manifest ends in a digest of itself; it holds, per shard, the digests of the shard's table of
// chunk hashes and of its document offsets; the table holds the hash of each chunk of tokens, checked at every read.
// The manifest is written last, so a directory without one is no corpus. Reading it trusts nothing: names are plain
// file names, counts are checked against each other.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace capstan {

constexpr uint64_t kCorpusFormatVersion = 1;
constexpr uint64_t kLargestChunkBytes = uint64_t{256} << 10;

enum class Split { train, validation };
constexpr const char* name_of(Split split) { return split == Split::train ? "train" : "validation"; }

struct ShardRecord {
  std::string file;  ///< plain name in the corpus directory
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint64_t bytes = 0;         ///< of text
  uint64_t chunk_tokens = 0;  ///< tokens per chunk; the last chunk may hold fewer
  uint64_t file_size = 0;
  std::string hashes_digest;   ///< xxh3-128 of dataset chunk_hashes
  std::string offsets_digest;  ///< xxh3-128 of dataset document_offsets

  uint64_t chunks() const { return (tokens + chunk_tokens - 1) / chunk_tokens; }
  bool operator==(const ShardRecord&) const = default;
};

struct SplitRecord {
  std::vector<ShardRecord> shards;
  uint64_t tokens() const;
  uint64_t documents() const;
  uint64_t bytes() const;
  bool operator==(const SplitRecord&) const = default;
};

struct CorpusManifest {
  std::string tokenizer_name;
  std::string tokenizer_hash;
  uint32_t vocabulary = 0;
  uint32_t end_of_document = 0;
  SplitRecord train;
  SplitRecord validation;
  std::string digest;  ///< of the file itself; filled by serialize() and parse_manifest()

  const SplitRecord& split(Split which) const { return which == Split::train ? train : validation; }
  SplitRecord& split(Split which) { return which == Split::train ? train : validation; }
  /// Bytes of one token in a shard: 2 while the vocabulary fits, else 4.
  uint64_t token_width() const { return vocabulary <= 65536 ? 2 : 4; }
  /// The text of manifest.json; sets `digest`.
  std::string serialize();
};

/// Error bad_data naming `where`.
CorpusManifest parse_manifest(const std::string& text, const std::string& where);

/// Reads directory/manifest.json. Error missing_input when the directory holds no corpus, or an unfinished one.
CorpusManifest read_manifest(const std::filesystem::path& directory);

/// Exists while a build is under way, and after one that was killed.
constexpr const char* kBuildMarker = "corpus.building";
constexpr const char* kManifestName = "manifest.json";

}  // namespace capstan
