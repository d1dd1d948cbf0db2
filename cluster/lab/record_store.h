#pragma once
// RecordStore: the table of a sweep, records.h5. One dataset `records`, a compound of fixed-size columns that h5py,
// PyTables and pandas open as it is; the unit and meaning of each column stand in its attributes. Appending writes the
// whole table anew beside the old one, syncs it and renames it: who reads, or crashes, sees the old rows or the new.
// A key that is there already is not written again. Several processes may append: a lock file keeps them apart.

#include <filesystem>
#include <string>
#include <vector>

#include "cluster/lab/record.h"

namespace capstan {

inline constexpr const char* kStoreName = "records.h5";

class RecordStore {
 public:
  /// Nothing is touched until the first append; an absent file is an empty table.
  explicit RecordStore(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  /// In the order in which they were appended. Error bad_data or io_error.
  std::vector<RunRecord> read() const;
  /// False, and nothing written, where a record of that run is there. A record that is not done makes way for one of
  /// a later try when `replace_failed`.
  bool append(const RunRecord& record, bool replace_failed = false);

 private:
  std::filesystem::path path_;
};

/// The bytes of the table, and back; `where` stands in messages.
std::string store_image(const std::vector<RunRecord>& records);
std::vector<RunRecord> records_of_image(const std::string& image, const std::string& where);

/// Whether these first bytes are those of an HDF5 file.
bool is_hdf5(const std::filesystem::path& path);

}  // namespace capstan
