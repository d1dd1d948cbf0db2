#pragma once
// Saving a checkpoint: what is on disk is, at every instant, the old state or the new one. All ranks write their slices
// into step-N.partial/ and sync them; rank 0 writes the manifest, syncs, and one rename makes it step-N; only then are
// older ones deleted, each taken out of sight by a rename first. If anything fails on any rank before that rename, all
// ranks throw the same Error, the .partial is removed and the older checkpoints are untouched.
//
// A slice is a stretch of the row-major elements of a logical tensor, or several equal ones (io/checkpoint/runs.h):
// Shard(0) and Flat pieces are one run, a shard of another dim is several. Rule: over all ranks the slices cover each
// tensor exactly once. Where state is replicated (plain data parallel), the caller divides it among the replicas.
//
// Failpoints beside those of io/file_system.h: checkpoint.manifest, checkpoint.before_rename, checkpoint.after_rename,
// checkpoint.prune.

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/group.h"
#include "io/checkpoint/manifest.h"

namespace capstan {

struct Slice {
  std::string tensor;
  uint64_t first_element = 0;
  uint64_t count = 0;
  const void* data = nullptr;  ///< runs * count elements, in the tensor's dtype
  uint64_t runs = 1;
  uint64_t stride = 0;
  /// Instead of data: copies bytes first_byte .. first_byte + bytes of the slice to dst, called with ascending
  /// stretches.
  std::function<void(uint64_t first_byte, uint64_t bytes, void* dst)> fetch = nullptr;
};

struct SaveResult {
  std::filesystem::path path;         ///< the finished directory
  bool was_there = false;             ///< it existed and every byte of it verified: left alone
  uint64_t bytes = 0;                 ///< in the files, over all ranks
  std::vector<std::string> warnings;  ///< saved, but the hint could not be written or an old one not deleted
};

/// One save in three steps, for who writes in the background: begin (collective), write (this rank alone, talks to
/// nobody, any thread; what the slices point to must stay as it is until it returns), commit (collective).
class CheckpointSave {
 public:
  /// `tensors` are those this rank knows, `slices` those it owns. Error internal when over all ranks they do not cover
  /// each tensor exactly once, or the ranks disagree about a tensor or the step. state_json and keep are rank 0's.
  CheckpointSave(std::filesystem::path directory, uint64_t step, std::vector<LogicalTensor> tensors,
                 std::vector<Slice> slices, std::string state_json, CheckpointGroup& group);
  /// Never throws: a failure is reported by commit(), on all ranks.
  void write();
  /// Keeps the newest `keep` checkpoints, at least 2, and as many more as it takes for 2 good ones to remain.
  SaveResult commit(int keep);

 private:
  std::string describe() const;
  void learn(const std::vector<std::string>& descriptions);
  void prepare();
  std::string write_file();
  Manifest manifest(const std::vector<std::string>& reports) const;
  void publish(const Manifest& manifest);
  void discard() noexcept;

  std::filesystem::path directory_, final_, partial_;
  uint64_t step_;
  std::vector<LogicalTensor> mine_;  ///< as this rank knows them, sorted by name
  std::vector<Slice> slices_;        ///< in the order of this rank's file
  std::string state_;
  CheckpointGroup& group_;
  std::vector<LogicalTensor> all_;  ///< of all ranks, sorted by name
  bool was_there_ = false;
  Outcome outcome_;
};

/// begin, write and commit in one call. Collective.
SaveResult save_checkpoint(const std::filesystem::path& directory, uint64_t step, std::vector<LogicalTensor> tensors,
                           std::vector<Slice> slices, std::string state_json, CheckpointGroup& group, int keep);

/// The same content as one rank would have saved it: one file, every tensor whole. Streams; needs little memory.
SaveResult merge_checkpoint(Checkpoint& from, const std::filesystem::path& directory);

}  // namespace capstan
