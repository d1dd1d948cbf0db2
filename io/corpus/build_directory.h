#pragma once
// BuildDirectory: the directory that a build writes to: new or empty, or left behind by a build that was killed, whose
// finished shards are then checked to the last byte and taken over when the same is asked for again.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "io/corpus/build_journal.h"
#include "io/corpus/manifest.h"

namespace capstan {

class BuildDirectory {
 public:
  /// Error cannot_create when anything else is there, a finished corpus too.
  BuildDirectory(std::filesystem::path out, const CorpusManifest& manifest);

  /// Takes over what fits the request, removes the rest of an earlier build, begins the journal. `progress` is told
  /// bytes of shards checked and in all.
  void prepare(const BuildRequest& request, const std::function<void(uint64_t, uint64_t)>& progress);

  /// Finished shards of an earlier run, in order.
  const std::vector<ShardRecord>& known(Split which) const { return which == Split::train ? train_ : validation_; }
  const std::string& started_anew() const { return started_anew_; }
  void add_finished(Split which, const ShardRecord& record) { journal_.append({which, record}); }
  /// Writes the manifest and takes the journal away: the corpus is there.
  void complete(CorpusManifest& manifest);

  /// When an earlier run wrote the manifest and was killed before it could take the journal away, takes it away.
  static bool finish_interrupted(const std::filesystem::path& out, const BuildRequest& request);

 private:
  void refuse_foreign_files() const;
  bool is_good(const ShardRecord& record) const;
  void remove_stale() const;

  const std::filesystem::path out_;
  const CorpusManifest& manifest_;
  BuildJournal journal_;
  bool unfinished_ = false;
  std::vector<ShardRecord> train_, validation_;
  std::string started_anew_;
};

}  // namespace capstan
