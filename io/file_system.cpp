#include "io/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/failpoint.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

// One write() moves at most this much: it stays in a processor's cache, and 8 MiB at once took the kernel twice as long
// (docs/benchmarks.md, conversion).
constexpr size_t kLargestWrite = size_t{256} << 10;
constexpr uint64_t kWriteBehind = uint64_t{32} << 20;  // the disk is set to work whenever this much has come

Error failed(const char* what, const fs::path& path, int error) {
  const char* fix = error == ENOSPC || error == EDQUOT ? "; free some space or choose another directory, then run again"
                    : error == EROFS                   ? "; the file system is read-only"
                    : error == EACCES                  ? "; check the permissions"
                                                       : "";
  return Error::make(ExitCode::io_error, "{}: {} failed: {}{}", path.string(), what, std::strerror(error), fix);
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void sync_descriptor(int fd, const fs::path& path, const char* point) {
  if (failpoint(point)) throw failed("fsync", path, ENOSPC);
  if (fsync(fd) != 0) throw failed("fsync", path, errno);
}

void close_checked(FileDescriptor& file, const fs::path& path) {
  // On Linux the descriptor is gone whatever close() says; an error it reports (NFS, quota) means lost bytes.
  if (close(file.release()) != 0 && errno != EINTR) throw failed("close", path, errno);
}

int open_or_throw(const fs::path& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) throw cannot_open(path, errno);
  return fd;
}

/// Nothing where nothing has this name.
std::optional<struct stat> status_of(const fs::path& path, bool follow) {
  struct stat status {};
  if ((follow ? stat(path.c_str(), &status) : lstat(path.c_str(), &status)) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw cannot_open(path, errno);
}

bool is_plain_component(const fs::path& part) { return !part.empty() && part != "." && part != ".."; }

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

int FileDescriptor::release() noexcept {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

/// Sets the disk to work on what has been written so far, so that fsync at the end finds little left to wait for. A
/// thread of its own, since the call waits where the disk's queue is full. A hint: a file system that does not know it
/// loses nothing.
class DurableFile::WriteBehind {
 public:
  explicit WriteBehind(int fd) : fd_(fd), thread_([this](const std::stop_token& stop) { work(stop); }) {}

  uint64_t asked() const { return asked_; }
  void ask(uint64_t end) {
    {
      const std::lock_guard lock(mutex_);
      asked_ = end;
    }
    changed_.notify_one();
  }

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (uint64_t begun = 0; changed_.wait(lock, stop, [&] { return asked_ > begun; });) {
      const uint64_t end = asked_;
      lock.unlock();
      (void)sync_file_range(fd_, static_cast<off_t>(begun), static_cast<off_t>(end - begun), SYNC_FILE_RANGE_WRITE);
      begun = end;
      lock.lock();
    }
  }

  int fd_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  uint64_t asked_ = 0;
  std::jthread thread_;
};

DurableFile::DurableFile(fs::path path) : path_(std::move(path)) {
  file_ = FileDescriptor(open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file_.valid())
    throw Error::make(ExitCode::cannot_create, "{}: cannot create this file: {}", path_.string(), std::strerror(errno));
}

DurableFile::~DurableFile() {
  if (!finished_) unlink(path_.c_str());
}

void DurableFile::write(const void* data, size_t bytes) {
  CAPSTAN_CHECK(file_.valid(), "write to {} after it was closed", path_.string());
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    if (failpoint("file.write")) throw failed("write", path_, ENOSPC);
    const ssize_t written = ::write(file_.get(), at, std::min(bytes, kLargestWrite));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw failed("write", path_, errno);
    if (written == 0) throw failed("write", path_, ENOSPC);
    at += written;
    bytes -= static_cast<size_t>(written);
    size_ += static_cast<uint64_t>(written);
    write_behind();
  }
}

void DurableFile::write_behind() {
  if (size_ - (behind_ ? behind_->asked() : 0) < kWriteBehind) return;
  if (!behind_) behind_ = std::make_unique<WriteBehind>(file_.get());
  behind_->ask(size_);
}

void DurableFile::sync_and_close() {
  CAPSTAN_CHECK(file_.valid(), "{} was closed before", path_.string());
  behind_.reset();
  sync_descriptor(file_.get(), path_, "file.sync");
  close_checked(file_, path_);
  finished_ = true;
}

Error cannot_open(const fs::path& path, int error) {
  if (error == ENOENT || error == ENOTDIR)
    return Error::make(ExitCode::missing_input, "{}: wanted a file or directory here, there is none", path.string());
  if (error == ENXIO)
    return Error::make(ExitCode::bad_data, "{}: wanted a regular file, this is something else", path.string());
  const ExitCode code = error == ELOOP                             ? ExitCode::bad_data
                        : error == EACCES || error == ENAMETOOLONG ? ExitCode::missing_input
                                                                   : ExitCode::io_error;
  return {code, failed("open", path, error).what()};
}

bool anything_at(const fs::path& path) { return status_of(path, false).has_value(); }
bool directory_at(const fs::path& path) {
  const auto status = status_of(path, true);
  return status && S_ISDIR(status->st_mode);
}
bool file_at(const fs::path& path) {
  const auto status = status_of(path, true);
  return status && S_ISREG(status->st_mode);
}

fs::path partial_name(const fs::path& path) { return fs::path(path.string() + ".partial"); }

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  DurableFile file(partial_name(path));
  file.write(bytes);
  file.sync_and_close();
  try {
    rename_durably(file.path(), path);
  } catch (...) {
    unlink(file.path().c_str());
    throw;
  }
}

void create_directory_durably(const fs::path& wanted) {
  fs::path path = wanted.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "a/b/" is "a/b"
  std::error_code problem;                              // what it is does not matter here: mkdir() says it again
  if (path.empty() || fs::is_directory(path, problem)) return;
  if (parent_of(path) != path) create_directory_durably(parent_of(path));
  if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
    throw Error::make(ExitCode::cannot_create, "{}: cannot create this directory: {}", path.string(),
                      std::strerror(errno));
  if (!fs::is_directory(path, problem))
    throw Error::make(ExitCode::cannot_create, "{}: wanted a directory, a file of that name is in the way",
                      path.string());
  sync_directory(parent_of(path));
}

void sync_directory(const fs::path& path) {
  FileDescriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() && errno == ENOENT) throw cannot_open(path, errno);
  if (!directory.valid()) throw failed("open", path, errno);
  sync_descriptor(directory.get(), path, "directory.sync");
}

void sync_file(const fs::path& path) {
  FileDescriptor file(open_or_throw(path, O_RDONLY));
  sync_descriptor(file.get(), path, "file.sync");
  close_checked(file, path);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (failpoint("file.rename")) throw failed("rename", from, ENOSPC);
  if (rename(from.c_str(), to.c_str()) != 0)
    throw Error::make(ExitCode::io_error, "{}: rename to {} failed: {}", from.string(), to.string(),
                      std::strerror(errno));
  sync_directory(parent_of(to));
  if (parent_of(from) != parent_of(to)) sync_directory(parent_of(from));
}

uint64_t size_of(const FileDescriptor& file, const fs::path& name) {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) throw failed("stat", name, errno);
  if (!S_ISREG(status.st_mode))
    throw Error::make(ExitCode::bad_data, "{}: wanted a regular file, this is something else", name.string());
  return static_cast<uint64_t>(status.st_size);
}

namespace {

std::string read_open_file(const FileDescriptor& file, const fs::path& path, uint64_t max_bytes) {
  const uint64_t size = size_of(file, path);
  if (size > max_bytes)
    throw Error::make(ExitCode::bad_data, "{}: wanted at most {} bytes, the file has {}", path.string(), max_bytes,
                      size);
  std::string bytes(size, '\0');
  for (uint64_t at = 0; at < size;) {
    const ssize_t got = read(file.get(), bytes.data() + at, size - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw failed("read", path, errno);
    if (got == 0)
      throw Error::make(ExitCode::bad_data, "{}: ends at byte {}, wanted {}: it shrank while being read", path.string(),
                        at, size);
    at += static_cast<uint64_t>(got);
  }
  return bytes;
}

}  // namespace

std::string read_whole_file(const fs::path& path, uint64_t max_bytes) {
  const FileDescriptor file(open_or_throw(path, O_RDONLY | O_NONBLOCK));  // a pipe of that name must not hold us
  return read_open_file(file, path, max_bytes);
}

std::string read_file_beneath(const fs::path& root, std::string_view relative, uint64_t max_bytes) {
  return read_open_file(open_beneath(root, relative), root / fs::path(relative), max_bytes);
}

FileDescriptor open_beneath(const fs::path& root, std::string_view relative) {
  const fs::path wanted{std::string(relative)};
  const bool clean = !relative.empty() && relative.find('\0') == std::string_view::npos && wanted.is_relative();
  std::vector<fs::path> parts(wanted.begin(), wanted.end());
  for (const fs::path& part : parts)
    if (!clean || !is_plain_component(part))
      throw Error::make(ExitCode::bad_data, "{}: refuses the file name '{}': it would leave the directory",
                        root.string(), relative);
  if (!clean) throw Error::make(ExitCode::bad_data, "{}: refuses the file name '{}'", root.string(), relative);
  // One component at a time with O_NOFOLLOW: neither a link nor a later swap of one can lead elsewhere.
  FileDescriptor at(open_or_throw(root, O_RDONLY | O_DIRECTORY));
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool last = i + 1 == parts.size();
    const int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (last ? 0 : O_DIRECTORY);
    FileDescriptor next(openat(at.get(), parts[i].c_str(), flags));
    if (!next.valid() && errno == ENOENT)
      throw Error::make(ExitCode::missing_input, "{}: this file is missing", (root / wanted).string());
    if (!next.valid() && (errno == ELOOP || errno == ENOTDIR))
      throw Error::make(ExitCode::bad_data,
                        "{}: refused, '{}' is a symbolic link or no directory; a copy made by cp -rL holds no links",
                        (root / wanted).string(), parts[i].string());
    if (!next.valid()) throw cannot_open(root / wanted, errno);
    at = std::move(next);
  }
  size_of(at, root / wanted);  // a regular file, or Error
  return at;
}

}  // namespace capstan
