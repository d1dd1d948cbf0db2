#include "io/corpus/build_directory.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "core/error.h"
#include "io/corpus/metadata_file.h"
#include "io/corpus/shard.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

bool take(std::string_view& name, std::string_view beginning) {
  if (!name.starts_with(beginning)) return false;
  name.remove_prefix(beginning.size());
  return true;
}

/// Names that a build makes, and so may remove when an earlier one was killed: shards are train-00000.h5 and the like.
bool is_build_product(const fs::path& path) {
  const std::string text = path.filename().string();
  std::string_view name = text;
  if (name.ends_with(".partial")) name.remove_suffix(8);
  if (name == "tokenizer.json" || name == "manifest.json" || name == "corpus.building") return true;
  if (!take(name, "train-") && !take(name, "validation-")) return false;
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  name.remove_prefix(digits);
  return digits >= 5 && (name == ".h5" || name == ".metadata.jsonl.zst");
}

}  // namespace

BuildDirectory::BuildDirectory(fs::path out, const CorpusManifest& manifest)
    : out_(std::move(out)), manifest_(manifest), journal_(out_ / kBuildMarker) {
  if (fs::exists(out_ / kManifestName))
    throw Error::make(ExitCode::cannot_create,
                      "{}: a corpus is here already; choose another --out, or "
                      "remove this one yourself",
                      out_.string());
  unfinished_ = fs::exists(out_ / kBuildMarker) || fs::exists(partial_name(out_ / kBuildMarker));
  if (fs::exists(out_)) refuse_foreign_files();
}

void BuildDirectory::refuse_foreign_files() const {
  if (!fs::is_directory(out_))
    throw Error::make(ExitCode::cannot_create, "{}: wanted a directory, a file of that name is in the way",
                      out_.string());
  for (const fs::directory_entry& entry : fs::directory_iterator(out_))
    if (!unfinished_ || !is_build_product(entry.path()) || !entry.is_regular_file() || entry.is_symlink())
      throw Error::make(ExitCode::cannot_create, "{}: wanted an empty or new directory, found {} in it", out_.string(),
                        entry.path().filename().string());
}

bool BuildDirectory::is_good(const ShardRecord& record) const try {
  const CorpusShard shard(out_, record, manifest_);
  std::vector<char> chunk(record.chunk_tokens * manifest_.token_width());
  for (uint64_t i = 0; i < shard.chunks(); ++i) shard.read_chunk(i, chunk.data());
  static_cast<void>(shard.read_document_offsets());
  static_cast<void>(shard.read_document_hashes());
  if (record.metadata_size > 0) verify_metadata(out_, record);
  return true;
} catch (const Error&) {
  return false;
}

void BuildDirectory::prepare(const BuildRequest& request, const std::function<void(uint64_t, uint64_t)>& progress) {
  create_directory_durably(out_);
  JournalContents before;
  if (const BuildRequest asked = unfinished_ ? journal_.read_request() : BuildRequest(); !asked.empty()) {
    started_anew_ = first_difference(asked, request);
    if (started_anew_.empty()) before = journal_.read(manifest_.token_width(), !manifest_.metadata_fields.empty());
  }
  uint64_t done = 0, total = 0;
  for (const FinishedShard& shard : before.shards) total += shard.record.file_size;
  std::vector<FinishedShard> taken;
  bool broken[2] = {false, false};
  for (const FinishedShard& shard : before.shards) {
    bool& stopped = broken[shard.split == Split::train ? 0 : 1];
    stopped = stopped || !is_good(shard.record);
    done += shard.record.file_size;
    if (progress) progress(done, total);
    if (stopped) continue;
    (shard.split == Split::train ? train_ : validation_).push_back(shard.record);
    taken.push_back(shard);
  }
  remove_stale();
  journal_.begin(request, taken);
}

void BuildDirectory::remove_stale() const {
  std::set<std::string> keep{kBuildMarker};
  for (const auto* shards : {&train_, &validation_})
    for (const ShardRecord& shard : *shards) {
      keep.insert(shard.file);
      if (shard.metadata_size > 0) keep.insert(metadata_name(shard.file));
    }
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(out_))
    if (!keep.contains(entry.path().filename().string())) stale.push_back(entry.path());
  // While anything is removed the marker must stand, or a kill here would leave a directory that nobody may touch.
  if (!stale.empty() && !fs::exists(out_ / kBuildMarker)) write_file_atomically(out_ / kBuildMarker, "");
  for (const fs::path& path : stale) fs::remove(path);
}

void BuildDirectory::complete(CorpusManifest& manifest) {
  write_file_atomically(out_ / kManifestName, manifest.serialize());
  fs::remove(out_ / kBuildMarker);
  sync_directory(out_);
}

bool BuildDirectory::finish_interrupted(const fs::path& out, const BuildRequest& request) {
  const fs::path marker = out / kBuildMarker;
  if (!fs::exists(marker) || !fs::exists(out / kManifestName)) return false;
  if (BuildJournal(marker).read_request() != request) return false;
  fs::remove(marker);
  sync_directory(out);
  return true;
}

}  // namespace capstan
