#include "io/corpus/manifest.h"

#include <algorithm>
#include <iterator>
#include <span>

#include "core/error.h"
#include "io/corpus/manifest_scanner.h"
#include "io/file_system.h"
#include "io/json_events.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFormat = "capstan-corpus";
constexpr std::string_view kDigestLine = "  \"digest\": \"";
constexpr uint64_t kLargestManifest = uint64_t{256} << 20;
constexpr uint64_t kLargestCount = uint64_t{1} << 56;  // sums of a million shards still fit in 64 bits
constexpr size_t kMostMetadataFields = 64;

constexpr std::string_view kColumns[] = {"file",          "tokens",         "documents",
                                         "bytes",         "chunk_tokens",   "file_size",
                                         "hashes_digest", "offsets_digest", "document_hashes_digest",
                                         "metadata_size", "metadata_digest"};

[[noreturn]] void refuse(std::string_view where, const std::string& why) {
  throw Error::make(ExitCode::bad_data, "{}: {}; the manifest is damaged or was made by hand: build the corpus again",
                    where, why);
}

/// Those of metadata are left out where there is none.
std::span<const std::string_view> columns(bool metadata) { return std::span(kColumns).first(metadata ? 11 : 9); }

std::string columns_text(bool metadata) {
  std::string text;
  for (const std::string_view column : columns(metadata))
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ", ", column);
  return text;
}

std::string split_text(Split which, const SplitRecord& split) {
  std::string text = fmt::format("    \"{}\": {{\"tokens\": {}, \"documents\": {}, \"bytes\": {}, \"shards\": [\n",
                                 name_of(which), split.tokens(), split.documents(), split.bytes());
  for (size_t i = 0; i < split.shards.size(); ++i) {
    if (i) text += ",\n";
    text += shard_row(split.shards[i]);
  }
  return text + "]}";
}

std::string rule_text(const SplitRule& rule) {
  return rule.by_document ? fmt::format("{{\"by\": \"document\", \"threshold\": {}}}", rule.threshold)
                          : fmt::format("{{\"by\": \"place\", \"train_bytes\": {}}}", rule.train_bytes);
}

uint64_t scan_count(ManifestScanner& in) {
  const uint64_t number = in.number();
  if (number > kLargestCount) in.refuse("a count that some corpus could have");
  return number;
}

bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > 255 || name == "." || name == "..") return false;
  return std::none_of(name.begin(), name.end(), [](char c) { return c == '/' || c == '\0'; });
}

void check_shard(const ShardRecord& shard, uint64_t token_width, bool metadata, std::string_view where) {
  const std::string& name = shard.file;
  if (!is_plain_name(name)) refuse(where, "a shard's name must be a plain file name, got " + json_quote(name));
  const auto say = [&](const std::string& why) { refuse(where, fmt::format("{}: {}", json_quote(name), why)); };
  if (shard.tokens == 0 || shard.documents == 0 || shard.documents > shard.tokens)
    say("counts of tokens and documents contradict each other");
  if (shard.chunk_tokens == 0 || shard.chunk_tokens * token_width > kLargestChunkBytes)
    say(fmt::format("chunks of {} tokens", shard.chunk_tokens));
  if (shard.tokens > shard.file_size / token_width)
    say(fmt::format("{} tokens do not fit a file of {} bytes", shard.tokens, shard.file_size));
  if (metadata && shard.metadata_size == 0) say("has no metadata file");
}

void scan_shard(ManifestScanner& in, uint64_t token_width, bool metadata, ShardRecord& shard) {
  in.expect('[');
  shard.file = in.text();
  for (uint64_t ShardRecord::*count : {&ShardRecord::tokens, &ShardRecord::documents, &ShardRecord::bytes,
                                       &ShardRecord::chunk_tokens, &ShardRecord::file_size}) {
    in.expect(',');
    shard.*count = scan_count(in);
  }
  for (Digest128 ShardRecord::*digest :
       {&ShardRecord::hashes_digest, &ShardRecord::offsets_digest, &ShardRecord::document_hashes_digest}) {
    in.expect(',');
    shard.*digest = in.digest();
  }
  if (metadata) {
    in.expect(',');
    shard.metadata_size = scan_count(in);
    in.expect(',');
    shard.metadata_digest = in.digest();
  }
  in.expect(']');
  check_shard(shard, token_width, metadata, in.where());
}

SplitRecord scan_split(ManifestScanner& in, uint64_t token_width, bool metadata) {
  SplitRecord split;
  uint64_t totals[3];
  in.expect('{');
  for (size_t i = 0; const char* name : {"tokens", "documents", "bytes"}) {
    in.key(name);
    totals[i++] = in.number();
    in.expect(',');
  }
  in.key("shards");
  in.expect('[');
  uint64_t sums[3] = {};
  const size_t begin = in.at();
  do {
    ShardRecord& shard = split.shards.emplace_back();
    scan_shard(in, token_width, metadata, shard);
    sums[0] += shard.tokens, sums[1] += shard.documents, sums[2] += shard.bytes;
    if (split.shards.size() == 1) split.shards.reserve(1 + in.left() / (in.at() - begin));  // rows are about as long
  } while (in.accept(','));
  in.expect(']');
  in.expect('}');
  if (!std::equal(sums, sums + 3, totals)) refuse(in.where(), "the totals of a split are not the sums over its shards");
  return split;
}

SplitRule scan_rule(ManifestScanner& in) {
  SplitRule rule;
  in.expect('{');
  in.key("by");
  const std::string by = in.text();
  rule.by_document = by == "document";
  if (!rule.by_document && by != "place") in.refuse("\"document\" or \"place\" before this byte");
  in.expect(',');
  in.key(rule.by_document ? "threshold" : "train_bytes");
  (rule.by_document ? rule.threshold : rule.train_bytes) = in.number();
  in.expect('}');
  return rule;
}

std::vector<std::string> scan_texts(ManifestScanner& in, size_t most) {
  std::vector<std::string> texts;
  in.expect('[');
  if (in.accept(']')) return texts;
  do {
    if (texts.size() == most) in.refuse(fmt::format("at most {} names", most));
    texts.push_back(in.text());
  } while (in.accept(','));
  in.expect(']');
  return texts;
}

void scan_tokenizer(ManifestScanner& in, CorpusManifest& manifest) {
  in.expect('{');
  in.key("name");
  manifest.tokenizer_name = in.text();
  in.expect(',');
  in.key("hash");
  manifest.tokenizer_hash = in.digest().hex();
  in.expect('}');
  in.expect(',');
  in.key("vocabulary");
  const uint64_t vocabulary = in.number();
  in.expect(',');
  in.key("end_of_document");
  const uint64_t end = in.number();
  if (vocabulary == 0 || vocabulary > INT32_MAX || end >= vocabulary)
    refuse(in.where(), fmt::format("vocabulary {} with end_of_document {}", vocabulary, end));
  manifest.vocabulary = static_cast<uint32_t>(vocabulary);
  manifest.end_of_document = static_cast<uint32_t>(end);
}

void scan_splits(ManifestScanner& in, CorpusManifest& manifest) {
  in.key("shard_columns");
  if (!std::ranges::equal(scan_texts(in, std::size(kColumns)), columns(!manifest.metadata_fields.empty())))
    in.refuse("the known columns of a shard");
  in.expect(',');
  in.key("splits");
  in.expect('{');
  for (const Split which : {Split::train, Split::validation}) {
    if (which != Split::train) in.expect(',');
    in.key(name_of(which));
    manifest.split(which) = scan_split(in, manifest.token_width(), !manifest.metadata_fields.empty());
  }
  in.expect('}');
}

void require_different_names(const CorpusManifest& manifest, std::string_view where) {
  std::vector<std::string_view> names;
  names.reserve(manifest.train.shards.size() + manifest.validation.shards.size());
  for (const SplitRecord* split : {&manifest.train, &manifest.validation})
    for (const ShardRecord& shard : split->shards) names.push_back(shard.file);
  if (!std::is_sorted(names.begin(), names.end())) std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) refuse(where, "names the shard " + json_quote(*twice) + " twice");
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

void check_version(ManifestScanner& in) {
  in.expect('{');
  in.key("format");
  if (in.text() != kFormat) refuse(in.where(), "is no manifest of a corpus");
  in.expect(',');
  in.key("format_version");
  if (const uint64_t version = in.number(); version != kCorpusFormatVersion)
    throw Error::make(ExitCode::bad_data, "{}: wanted format version {}, got {}: build it again with this program",
                      in.where(), kCorpusFormatVersion, version);
}

}  // namespace

uint64_t SplitRecord::tokens() const { return sum(shards, &ShardRecord::tokens); }
uint64_t SplitRecord::documents() const { return sum(shards, &ShardRecord::documents); }
uint64_t SplitRecord::bytes() const { return sum(shards, &ShardRecord::bytes); }

std::string metadata_name(std::string_view shard_file) {
  return std::string(shard_file.substr(0, shard_file.rfind(".h5"))) + ".metadata.jsonl.zst";
}

std::string shard_row(const ShardRecord& shard) {
  std::string row =
      fmt::format("[{},{},{},{},{},{},\"{}\",\"{}\",\"{}\"", json_quote(shard.file), shard.tokens, shard.documents,
                  shard.bytes, shard.chunk_tokens, shard.file_size, shard.hashes_digest.hex(),
                  shard.offsets_digest.hex(), shard.document_hashes_digest.hex());
  if (shard.metadata_size > 0) row += fmt::format(",{},\"{}\"", shard.metadata_size, shard.metadata_digest.hex());
  return row + "]";
}

ShardRecord parse_shard_row(std::string_view row, uint64_t token_width, bool metadata, std::string_view where) {
  ManifestScanner in(row, where);
  ShardRecord shard;
  scan_shard(in, token_width, metadata, shard);
  in.end();
  return shard;
}

std::string CorpusManifest::serialize() {
  std::string fields;
  for (const std::string& field : metadata_fields) fields += (fields.empty() ? "" : ", ") + json_quote(field);
  std::string text = fmt::format(
      "{{\n  \"format\": \"{}\",\n  \"format_version\": {},\n  \"tokenizer\": {{\"name\": {}, \"hash\": \"{}\"}},\n"
      "  \"vocabulary\": {},\n  \"end_of_document\": {},\n  \"split_rule\": {},\n  \"duplicates_dropped\": {},\n"
      "  \"metadata_fields\": [{}],\n  \"shard_columns\": [{}],\n  \"splits\": {{\n{},\n{}\n  }},\n",
      kFormat, kCorpusFormatVersion, json_quote(tokenizer_name), tokenizer_hash, vocabulary, end_of_document,
      rule_text(split_rule), duplicates_dropped, fields, columns_text(!metadata_fields.empty()),
      split_text(Split::train, train), split_text(Split::validation, validation));
  digest = digest128_of(text).hex();
  return text + std::string(kDigestLine) + digest + "\"\n}\n";
}

CorpusManifest parse_manifest(const std::string& text, const std::string& where) {
  ManifestScanner in(text, where);
  check_version(in);
  CorpusManifest manifest;
  manifest.digest = checked_digest(text, where);
  in.expect(',');
  in.key("tokenizer");
  scan_tokenizer(in, manifest);
  in.expect(',');
  in.key("split_rule");
  manifest.split_rule = scan_rule(in);
  in.expect(',');
  in.key("duplicates_dropped");
  manifest.duplicates_dropped = in.boolean();
  in.expect(',');
  in.key("metadata_fields");
  manifest.metadata_fields = scan_texts(in, kMostMetadataFields);
  in.expect(',');
  scan_splits(in, manifest);
  in.expect(',');
  in.key("digest");
  in.digest();
  in.expect('}');
  in.end();
  require_different_names(manifest, where);
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
