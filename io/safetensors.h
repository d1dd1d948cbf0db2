#pragma once
// Safetensors, the plain container for tensors that other tools read and write: 8 bytes of header length, a JSON header
// {name: {dtype, shape, data_offsets}}, then the tensors back to back. The reader trusts nothing: every number is
// checked against the file's real size before anything is allocated by it, and data is read with pread(), because a
// mapped file that shrinks kills the process. The writer streams: declare the entries, write their bytes in that order,
// finish(). Rule for callers of the writer: wide dtypes first (entries of 8-byte elements before 4 before 2), so that
// each tensor starts at a multiple of its element size, as readers that make views of the bytes need.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint/digest.h"
#include "io/file_system.h"
#include "kernels/types.h"

namespace capstan {

constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
constexpr size_t kMaxSafetensorsEntries = size_t{1} << 20;
constexpr size_t kMaxSafetensorsMetadata = size_t{1} << 16;  ///< members of __metadata__
constexpr size_t kMaxTensorName = 1024;
constexpr size_t kMaxTensorDims = 16;

struct SafetensorsEntry {
  std::string name;
  std::optional<DType> dtype;  ///< nothing: one of the format's types that we do not compute with, such as BOOL
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< from the start of the file
  uint64_t bytes = 0;
  std::string_view type = {};  ///< as the file names it, "BOOL"
};

using SafetensorsMetadata = std::map<std::string, std::string>;

/// "F32" and so on; nothing for a type that is none of ours (F64 F32 BF16 F16 I64 I32 U32 U16 U8).
std::optional<DType> safetensors_dtype(std::string_view name);
std::string_view safetensors_name(DType dtype);

/// Product of the shape times the element size; nothing when a dim is negative or the product overflows.
std::optional<uint64_t> checked_tensor_bytes(DType dtype, const std::vector<int64_t>& shape);

class SafetensorsFile {
 public:
  /// Reads and checks the header. Error missing_input, io_error or bad_data.
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same for a file that a manifest or an index names: it must lie beneath `root`.
  static SafetensorsFile open_beneath(const std::filesystem::path& root, std::string_view name);

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  ///< in order of offset
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;  ///< null when there is none
  /// Bytes first_byte .. first_byte + bytes of that tensor. Error bad_data when there is no such tensor or range.
  void read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const;
  const std::filesystem::path& path() const { return path_; }
  uint64_t file_bytes() const { return file_bytes_; }

 private:
  SafetensorsFile(std::filesystem::path path, FileDescriptor file);

  std::filesystem::path path_;
  FileDescriptor file_;
  uint64_t file_bytes_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::vector<uint32_t> by_name_;  ///< entry numbers, sorted by name
  SafetensorsMetadata metadata_;
};

class SafetensorsWriter {
 public:
  /// Writes the header at once. Offsets and bytes of the entries are computed here. Error internal for entries that no
  /// reader would take (a name twice, too long a name, a bad shape).
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                    const SafetensorsMetadata& metadata = {});

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  /// The next bytes of the data, in the order of the entries; any block size.
  void write(const void* data, uint64_t bytes);
  /// Checks that all has been written; fsync, close.
  void finish();
  uint64_t file_bytes() const { return file_.size(); }
  Digest128 file_digest() const { return digest_.value(); }

 private:
  void put(const void* data, uint64_t bytes);

  DurableFile file_;
  DigestStream digest_;
  std::vector<SafetensorsEntry> entries_;
  uint64_t end_ = 0;  ///< size of the finished file
};

/// pread() of exactly these bytes; Error bad_data when the file ends before, io_error when the disk fails.
void read_exactly(const FileDescriptor& file, const std::filesystem::path& path, void* dst, uint64_t offset,
                  uint64_t bytes);

}  // namespace capstan
