#pragma once
// manifest.json of a corpus directory: what the corpus is made of, and the digest of everything that vouches for the
// rest. The chain: the manifest ends in a digest of itself; it holds, per shard, the digests of the shard's tables
// (chunk hashes, document offsets, document hashes) and of its metadata file; the table of chunk hashes holds the hash
// of each chunk of tokens, checked at every read. The manifest is written last, so a directory without one is no
// corpus. Reading it trusts nothing: names are plain file names, counts are checked against each other. Shards stand in
// rows under one line of column names and are read by a scanner of our own, because a corpus of 10,000 shards must open
// in milliseconds.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint/digest.h"

namespace capstan {

constexpr uint64_t kCorpusFormatVersion = 2;
constexpr uint64_t kLargestChunkBytes = uint64_t{256} << 10;

enum class Split { train, validation };
constexpr const char* name_of(Split split) { return split == Split::train ? "train" : "validation"; }

/// Which text is held out for validation. A document's hash is the xxh3-64 of the first MiB of its text
/// (kHashedBytes in document_parser.h); the dataset document_hashes of a shard holds it for every document, and for
/// both parts of one that the split cuts through.
struct SplitRule {
  bool by_document = true;
  uint64_t threshold = 0;    ///< by_document: held out when the document's hash is below
  uint64_t train_bytes = 0;  ///< else: text before this byte is for training, the rest is held out
  bool operator==(const SplitRule&) const = default;
};

struct ShardRecord {
  std::string file;  ///< plain name in the corpus directory
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint64_t bytes = 0;         ///< of text
  uint64_t chunk_tokens = 0;  ///< tokens per chunk; the last chunk may hold fewer
  uint64_t file_size = 0;
  Digest128 hashes_digest;           ///< xxh3-128 of dataset chunk_hashes
  Digest128 offsets_digest;          ///< xxh3-128 of dataset document_offsets
  Digest128 document_hashes_digest;  ///< xxh3-128 of dataset document_hashes
  uint64_t metadata_size = 0;        ///< of metadata_name(file); 0 when the corpus keeps no metadata
  Digest128 metadata_digest;         ///< xxh3-128 of that file

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
  SplitRule split_rule;
  bool duplicates_dropped = false;
  std::vector<std::string> metadata_fields;  ///< kept for every document; empty: there are no metadata files
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

/// The metadata file beside a shard: "train-00000.h5" -> "train-00000.metadata.jsonl.zst".
std::string metadata_name(std::string_view shard_file);

/// One shard as it stands in the manifest, and back; the journal of a build uses the same text. Error bad_data.
std::string shard_row(const ShardRecord& shard);
ShardRecord parse_shard_row(std::string_view row, uint64_t token_width, bool metadata, std::string_view where);

/// Error bad_data naming `where`.
CorpusManifest parse_manifest(const std::string& text, const std::string& where);

/// Reads directory/manifest.json. Error missing_input when the directory holds no corpus, or an unfinished one.
CorpusManifest read_manifest(const std::filesystem::path& directory);

/// Exists while a build is under way, and after one that was killed; holds the journal of the build.
constexpr const char* kBuildMarker = "corpus.building";
constexpr const char* kManifestName = "manifest.json";

}  // namespace capstan
