#include "io/partial_claim.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr int kTries = 100;  // others that come and go between two of our calls

Error cannot_claim(const fs::path& path, int error) {
  return Error::make(ExitCode::cannot_create, "{}: cannot create this: {}", path.string(), std::strerror(error));
}

enum class Locking { ours, taken, again };

/// A lock of the open file's, not of the process's: two claims of one program exclude each other too.
Locking lock_whole(const FileDescriptor& file) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (fcntl(file.get(), F_OFD_SETLK, &whole) == 0) return Locking::ours;
  if (errno == EAGAIN || errno == EACCES) return Locking::taken;
  if (errno == ESTALE || errno == EINTR) return Locking::again;  // another host took the file away
  return Locking::ours;                                          // there are no locks here
}

nlink_t names_of(const FileDescriptor& file) {
  struct stat held {};
  return fstat(file.get(), &held) == 0 ? held.st_nlink : 0;
}

/// Whether the open file still has this name: who held it first may have taken it away.
bool is_still(const FileDescriptor& file, const fs::path& path) {
  struct stat held {
  }, named{};
  return fstat(file.get(), &held) == 0 && lstat(path.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

/// Whatever it is; a link alone, not what it leads to.
void remove_left(const fs::path& partial) {
  std::error_code problem;
  fs::remove_all(partial, problem);
  if (problem)
    throw Error::make(ExitCode::cannot_create, "{}: what is left there cannot be removed: {}", partial.string(),
                      problem.message());
}

void make_directory(const fs::path& partial) {
  try {
    create_directory_durably(partial);
  } catch (...) {
    std::error_code ignored;
    fs::remove(partial, ignored);  // made, but not on disk for sure
    throw;
  }
}

void make_file(const fs::path& partial) {
  const FileDescriptor made(open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!made.valid()) throw cannot_claim(partial, errno);
}

/// An impossible path is told by the name that was asked for.
const fs::path& checked(const fs::path& partial, PartialClaim::Kind kind) {
  struct stat there {};
  if (lstat(partial.c_str(), &there) != 0 && errno != ENOENT) throw cannot_claim(partial, errno);
  if (kind == PartialClaim::Kind::directory) create_directory_durably(partial.parent_path());
  return partial;
}

}  // namespace

void refuse_taken(const fs::path& final_name) {
  struct stat there {};
  if (lstat(final_name.c_str(), &there) == 0)
    throw Error::make(ExitCode::cannot_create, "{} is there already; choose another name, or move it away",
                      final_name.string());
  if (errno != ENOENT) throw cannot_claim(final_name, errno);
}

PartialClaim::Lock::Lock(const fs::path& partial) : path_(partial.string() + ".lock") {
  for (int i = 0; i < kTries; ++i) {
    file_ = FileDescriptor(open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666));
    if (!file_.valid() && errno == ESTALE) continue;
    if (!file_.valid()) throw cannot_claim(path_, errno);
    const nlink_t names = names_of(file_);      // a network file system brings this up to date with the lock,
    const Locking locking = lock_whole(file_);  // but may remember a name that is gone
    if (locking == Locking::ours && names_of(file_) == names && is_still(file_, path_)) return;
    if (locking == Locking::taken)
      throw Error::make(ExitCode::cannot_create,
                        "another program is writing {}; wait until it has ended, or choose another name",
                        partial.string());
  }
  throw cannot_claim(path_, EBUSY);
}

/// The name goes before the lock does: who waits for neither makes a file of its own.
PartialClaim::Lock::~Lock() {
  if (is_still(file_, path_)) unlink(path_.c_str());
}

PartialClaim::PartialClaim(const fs::path& partial, Kind kind) : lock_(checked(partial, kind)) {
  remove_left(partial);
  if (kind == Kind::directory)
    make_directory(partial);
  else
    make_file(partial);
}

}  // namespace capstan
