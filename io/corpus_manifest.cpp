#include "io/corpus_manifest.h"

#include <set>

#include "core/error.h"
#include "io/checkpoint_digest.h"
#include "io/corpus_json.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFormat = "capstan-corpus";
constexpr std::string_view kDigestLine = "  \"digest\": \"";
constexpr uint64_t kLargestManifest = uint64_t{256} << 20;
constexpr uint64_t kLargestCount = uint64_t{1} << 56;  // sums of a million shards still fit in 64 bits

std::string shard_text(const ShardRecord& shard) {
  return fmt::format(
      "        {{\"file\": {}, \"tokens\": {}, \"documents\": {}, \"bytes\": {}, \"chunk_tokens\": {}, "
      "\"file_size\": {},\n         \"hashes_digest\": \"{}\", \"offsets_digest\": \"{}\"}}",
      json_quote(shard.file), shard.tokens, shard.documents, shard.bytes, shard.chunk_tokens, shard.file_size,
      shard.hashes_digest, shard.offsets_digest);
}

std::string split_text(Split which, const SplitRecord& split) {
  std::string text = fmt::format("    \"{}\": {{\"tokens\": {}, \"documents\": {}, \"bytes\": {}, \"shards\": [\n",
                                 name_of(which), split.tokens(), split.documents(), split.bytes());
  for (size_t i = 0; i < split.shards.size(); ++i) text += (i ? ",\n" : "") + shard_text(split.shards[i]);
  return text + "]}";
}

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw Error::make(ExitCode::bad_data, "{}: {}; the manifest is damaged or was made by hand: build the corpus again",
                    where, why);
}

uint64_t count_of(const JsonObject& object, const char* key) {
  const uint64_t number = object.number(key);
  if (number > kLargestCount) refuse(object.where(), fmt::format("\"{}\" is {}, beyond any corpus", key, number));
  return number;
}

std::string digest_field(const JsonObject& object, const char* key) {
  std::string digest = object.text(key);
  if (!Digest128::from_hex(digest)) refuse(object.where(), fmt::format("\"{}\" is no digest", key));
  return digest;
}

ShardRecord parse_shard(const JsonObject& object, uint64_t token_width) {
  ShardRecord shard;
  shard.file = object.text("file");
  if (shard.file.empty() || shard.file.find_first_of(std::string_view("/\0", 2)) != std::string::npos ||
      shard.file == "." || shard.file == ".." || shard.file.size() > 255)
    refuse(object.where(), "a shard's name must be a plain file name, got " + json_quote(shard.file));
  shard.tokens = count_of(object, "tokens");
  shard.documents = count_of(object, "documents");
  shard.bytes = count_of(object, "bytes");
  shard.chunk_tokens = count_of(object, "chunk_tokens");
  shard.file_size = count_of(object, "file_size");
  shard.hashes_digest = digest_field(object, "hashes_digest");
  shard.offsets_digest = digest_field(object, "offsets_digest");
  if (shard.tokens == 0 || shard.documents == 0 || shard.documents > shard.tokens)
    refuse(object.where() + ": " + shard.file, "counts of tokens and documents contradict each other");
  if (shard.chunk_tokens == 0 || shard.chunk_tokens * token_width > kLargestChunkBytes)
    refuse(object.where() + ": " + shard.file, fmt::format("chunks of {} tokens", shard.chunk_tokens));
  return shard;
}

SplitRecord parse_split(const JsonObject& object, uint64_t token_width, std::set<std::string>& names) {
  SplitRecord split;
  for (const JsonValue& value : object.array("shards")) {
    split.shards.push_back(parse_shard(JsonObject(value, object.where()), token_width));
    if (!names.insert(split.shards.back().file).second)
      refuse(object.where(), "names the shard " + json_quote(split.shards.back().file) + " twice");
  }
  if (split.shards.empty()) refuse(object.where(), "has no shards");
  if (split.tokens() != object.number("tokens") || split.documents() != object.number("documents") ||
      split.bytes() != object.number("bytes"))
    refuse(object.where(), "its totals are not the sums over its shards");
  return split;
}

uint64_t sum(const std::vector<ShardRecord>& shards, uint64_t ShardRecord::*field) {
  uint64_t total = 0;
  for (const ShardRecord& shard : shards) total += shard.*field;
  return total;
}

/// The digest covers every byte before its own line.
std::string checked_digest(const std::string& text, const std::string& where) {
  const size_t at = text.rfind(kDigestLine);
  if (at == std::string::npos) refuse(where, "has no digest of itself");
  const std::string found = text.substr(at + kDigestLine.size(), 32);
  const std::string wanted = digest128_of(std::string_view(text).substr(0, at)).hex();
  if (found != wanted) refuse(where, fmt::format("its digest is \"{}\", its bytes give {}", found, wanted));
  return wanted;
}

}  // namespace

uint64_t SplitRecord::tokens() const { return sum(shards, &ShardRecord::tokens); }
uint64_t SplitRecord::documents() const { return sum(shards, &ShardRecord::documents); }
uint64_t SplitRecord::bytes() const { return sum(shards, &ShardRecord::bytes); }

std::string CorpusManifest::serialize() {
  std::string text = fmt::format(
      "{{\n  \"format\": \"{}\",\n  \"format_version\": {},\n  \"tokenizer\": {{\"name\": {}, \"hash\": \"{}\"}},\n"
      "  \"vocabulary\": {},\n  \"end_of_document\": {},\n  \"splits\": {{\n{},\n{}\n  }},\n",
      kFormat, kCorpusFormatVersion, json_quote(tokenizer_name), tokenizer_hash, vocabulary, end_of_document,
      split_text(Split::train, train), split_text(Split::validation, validation));
  digest = digest128_of(text).hex();
  return text + std::string(kDigestLine) + digest + "\"\n}\n";
}

CorpusManifest parse_manifest(const std::string& text, const std::string& where) {
  const JsonValue root = parse_json(text, where);
  const JsonObject object(root, where);
  if (object.text("format") != kFormat) refuse(where, "is no manifest of a corpus");
  const uint64_t version = object.number("format_version");
  if (version != kCorpusFormatVersion)
    throw Error::make(ExitCode::bad_data,
                      "{}: wanted format version {}, got {}: build the corpus again with this program", where,
                      kCorpusFormatVersion, version);
  CorpusManifest manifest;
  manifest.digest = checked_digest(text, where);
  const JsonObject tokenizer = object.object("tokenizer");
  manifest.tokenizer_name = tokenizer.text("name");
  manifest.tokenizer_hash = digest_field(tokenizer, "hash");
  const uint64_t vocabulary = object.number("vocabulary"), end = object.number("end_of_document");
  if (vocabulary == 0 || vocabulary > INT32_MAX || end >= vocabulary)
    refuse(where, fmt::format("vocabulary {} with end_of_document {}", vocabulary, end));
  manifest.vocabulary = static_cast<uint32_t>(vocabulary);
  manifest.end_of_document = static_cast<uint32_t>(end);
  std::set<std::string> names;
  const JsonObject splits = object.object("splits");
  for (const Split which : {Split::train, Split::validation})
    manifest.split(which) = parse_split(splits.object(name_of(which)), manifest.token_width(), names);
  return manifest;
}

CorpusManifest read_manifest(const fs::path& directory) {
  const fs::path file = directory / kManifestName;
  if (!fs::is_directory(directory))
    throw Error::make(ExitCode::missing_input,
                      "{}: wanted a corpus directory, there is none; make one with `corpus build`", directory.string());
  if (!fs::exists(file) && fs::exists(directory / kBuildMarker))
    throw Error::make(ExitCode::missing_input, "{}: this corpus was never finished; run the same `corpus build` again",
                      directory.string());
  if (!fs::exists(file))
    throw Error::make(ExitCode::missing_input, "{}: no {} here, so this is no corpus; make one with `corpus build`",
                      directory.string(), kManifestName);
  return parse_manifest(read_whole_file(file, kLargestManifest), file.string());
}

}  // namespace capstan
