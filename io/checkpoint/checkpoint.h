#pragma once
// Reading checkpoints. A checkpoint has no layout: it is a list of logical tensors, each the row-major run of its
// elements, and any rank of any layout asks for the stretches it owns; only the slices that hold them are read, and
// each is hashed once, before the first of its elements is believed. Directories named step-N are trusted when their
// manifest verifies; `latest` is a hint for people, `.partial` names are leftovers and never looked into. Everything on
// disk is treated as hostile: names in the manifest cannot leave the directory, sizes are those of the real files.
// Saving is in io/checkpoint/save.h.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint/group.h"
#include "io/checkpoint/manifest.h"
#include "io/file_system.h"

namespace capstan {

class Checkpoint {
 public:
  /// Checks the manifest (its digest, that slices cover each tensor once) and that the files are there with their
  /// sizes. Error missing_input, bad_data or io_error. Reads no tensor.
  static Checkpoint open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  uint64_t step() const { return manifest_.step; }
  /// The JSON object given to save, byte for byte.
  const std::string& state() const { return manifest_.state; }
  const Manifest& manifest() const { return manifest_; }
  std::vector<LogicalTensor> tensors() const;                ///< sorted by name
  const LogicalTensor* find(std::string_view tensor) const;  ///< null when there is none
  uint64_t bytes() const;                                    ///< of all files

  /// Elements first_element .. first_element + count of the row-major tensor, in the dtype as stored. Error bad_data
  /// when there is no such tensor or stretch, or the bytes on disk do not match their digest.
  void read(std::string_view tensor, uint64_t first_element, uint64_t count, void* dst);
  /// The runs one after another: a shard of any dim, as it lies in memory.
  void read(std::string_view tensor, const Runs& runs, void* dst);

  /// Hashes every `parts`-th file, beginning with file `part`, and all slices in them. Error bad_data on damage.
  void verify(int part = 0, int parts = 1);

 private:
  Checkpoint(std::filesystem::path path, Manifest manifest);
  const ManifestTensor& wanted(std::string_view tensor, const Runs& runs) const;
  const FileDescriptor& file(uint32_t index);
  std::string file_path(uint32_t index) const { return (path_ / manifest_.files[index].name).string(); }
  void read_slice_part(const ManifestTensor& entry, size_t slice, uint64_t first, uint64_t count, char* dst);
  void check_slice(const ManifestTensor& entry, const ManifestSlice& slice);
  void verify_file(uint32_t index);
  std::vector<bool>& checked(const ManifestTensor& entry);

  std::filesystem::path path_;
  Manifest manifest_;
  std::vector<std::vector<bool>> checked_;  ///< per tensor and slice: its hash has been compared
  FileDescriptor open_file_;                ///< the file read last
  uint32_t open_index_ = 0;
};

struct CheckpointLocation {
  uint64_t step = 0;
  std::filesystem::path path;
};

/// Directories named step-N in `directory`, newest (largest step) first. A missing directory holds none.
std::vector<CheckpointLocation> find_checkpoints(const std::filesystem::path& directory);

std::string checkpoint_name(uint64_t step);  ///< "step-40"

/// Collective: the ranks hash the files of one checkpoint together. Empty when all is well, else what is wrong, the
/// same on every rank.
std::string verify_together(const std::filesystem::path& path, CheckpointGroup& group);

/// Collective: the newest checkpoint of which every byte verifies, the same on every rank; nothing when there is none.
/// Each newer one that had to be passed over adds a sentence such as "checkpoint step-40 is damaged (...); using
/// step-20".
std::optional<Checkpoint> open_newest_good(const std::filesystem::path& directory, std::vector<std::string>& complaints,
                                           CheckpointGroup& group);
std::optional<Checkpoint> open_newest_good(const std::filesystem::path& directory,
                                           std::vector<std::string>& complaints);

}  // namespace capstan
