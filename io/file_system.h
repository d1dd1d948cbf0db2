#pragma once
// Files that must survive a power cut or a full disk. The protocol is always the same: write to a name that ends in
// `.partial`, fsync it, rename it, fsync the directory; whoever reads trusts only names without `.partial`. Every
// return value is checked and every failure is an Error that names the path; a failed fsync is final for that file
// (the kernel has forgotten which pages were bad), so the file is thrown away, never synced again. A caller must call
// sync_and_close(): a file that was not finished is removed when its DurableFile goes away.
// Failpoints: file.write before each write(), file.sync before each fsync(), file.rename before each rename(),
// directory.sync before a directory's fsync(); action `enospc` makes that call fail as a full disk does.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace capstan {

class Error;

/// Owner of a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() noexcept;

 private:
  int fd_ = -1;
};

class DurableFile {
 public:
  /// Creates or truncates. Error cannot_create (or missing_input when the directory is not there).
  explicit DurableFile(std::filesystem::path path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  /// All of it or Error io_error (short writes are continued, a full disk is an Error).
  void write(const void* data, size_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  /// fsync, then close, both checked. After this the bytes are on disk under path(); the name may not be.
  void sync_and_close();

  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  class WriteBehind;
  void write_behind();

  std::filesystem::path path_;
  FileDescriptor file_;
  uint64_t size_ = 0;
  std::unique_ptr<WriteBehind> behind_;  ///< of a large file
  bool finished_ = false;
};

/// Why a file or directory cannot be opened for reading: missing_input where there is none or none that we may read,
/// bad_data where what lies there is no file (a socket, links in a circle), else io_error.
Error cannot_open(const std::filesystem::path& path, int error);

/// What the standard library's questions throw as its own exceptions is an Error here. Nothing there is a plain "no";
/// a directory on the way that may not be searched, links in a circle or an impossible name are cannot_open().
bool anything_at(const std::filesystem::path& path);   ///< something has this name, be it a link that leads nowhere
bool directory_at(const std::filesystem::path& path);  ///< or a link to one
bool file_at(const std::filesystem::path& path);       ///< a regular one, or a link to one

/// path + ".partial"; who reads never trusts such a name.
std::filesystem::path partial_name(const std::filesystem::path& path);

/// The whole protocol for a small file: readers see the old bytes or the new ones, nothing else.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Creates the directory and its parents, each made durable in its own parent. Error cannot_create.
void create_directory_durably(const std::filesystem::path& path);

/// fsync of a directory: makes the names in it durable.
void sync_directory(const std::filesystem::path& path);

/// fsync of a file that another library wrote and closed.
void sync_file(const std::filesystem::path& path);

/// rename(), then fsync of the directory (or of both, when they differ). Works for files and directories.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Error missing_input when absent, bad_data when it is no regular file or longer than max_bytes.
std::string read_whole_file(const std::filesystem::path& path, uint64_t max_bytes);

/// Opens for reading a file named by an untrusted file (a manifest, an index): `relative` may not leave `root`, nor
/// pass through a symbolic link, nor be anything but a regular file. Error missing_input or bad_data.
FileDescriptor open_beneath(const std::filesystem::path& root, std::string_view relative);

/// read_whole_file() of such a file.
std::string read_file_beneath(const std::filesystem::path& root, std::string_view relative, uint64_t max_bytes);

/// Size of an open regular file.
uint64_t size_of(const FileDescriptor& file, const std::filesystem::path& name);

}  // namespace capstan
