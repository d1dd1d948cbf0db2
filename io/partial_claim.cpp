#include "io/partial_claim.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr int kTries = 100;  // others that come and go between two of our calls

Error cannot_claim(const fs::path& partial, int error) {
  return Error::make(ExitCode::cannot_create, "{}: cannot create this: {}", partial.string(), std::strerror(error));
}

/// What lies there, whatever it is; nothing when it has gone. A link is not followed.
FileDescriptor open_any(const fs::path& partial) {
  return FileDescriptor(open(partial.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
}

/// True: ours, or there are no locks here.
void lock_or_refuse(const FileDescriptor& file, const fs::path& partial) {
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  throw Error::make(ExitCode::cannot_create,
                    "another program is writing {}; wait until it has ended, or choose another name", partial.string());
}

/// Whether the open file still has this name: who locked it first may have taken it away.
bool is_still(const FileDescriptor& file, const fs::path& partial) {
  struct stat held {
  }, named{};
  return fstat(file.get(), &held) == 0 && lstat(partial.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

void remove_tree(const fs::path& path) {
  std::error_code problem;
  fs::remove_all(path, problem);
  if (problem)
    throw Error::make(ExitCode::cannot_create, "{}: what is left there cannot be removed: {}", path.string(),
                      problem.message());
}

void clear_directory(const fs::path& directory) {
  std::error_code problem;
  std::vector<fs::path> left;
  for (fs::directory_iterator at(directory, problem), end; !problem && at != end; at.increment(problem))
    left.push_back(at->path());
  for (const fs::path& path : left) remove_tree(path);
}

/// A file where a directory is wanted, or the other way round, or a link.
void remove_other_kind(const fs::path& partial) {
  const FileDescriptor there = open_any(partial);
  if (there.valid()) lock_or_refuse(there, partial);
  if (!there.valid() || is_still(there, partial)) remove_tree(partial);
}

}  // namespace

void refuse_taken(const fs::path& final_name) {
  struct stat there {};
  if (lstat(final_name.c_str(), &there) == 0)
    throw Error::make(ExitCode::cannot_create, "{} is there already; choose another --to, or move it away",
                      final_name.string());
  if (errno != ENOENT) throw cannot_claim(final_name, errno);
}

PartialClaim::PartialClaim(const fs::path& partial, Kind kind) {
  const bool directory = kind == Kind::directory;
  for (int i = 0; i < kTries; ++i) {
    struct stat there {};
    const bool found = lstat(partial.c_str(), &there) == 0;
    if (!found && errno != ENOENT) throw cannot_claim(partial, errno);
    if (found && (directory ? !S_ISDIR(there.st_mode) : !S_ISREG(there.st_mode))) {
      remove_other_kind(partial);
      continue;
    }
    if (!found && directory) create_directory_durably(partial);
    held_ = directory
                ? open_any(partial)
                : FileDescriptor(open(partial.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666));
    if (!held_.valid() && (errno == ENOENT) && directory) continue;
    if (!held_.valid()) throw cannot_claim(partial, errno);
    lock_or_refuse(held_, partial);
    if (!is_still(held_, partial)) continue;
    if (directory) clear_directory(partial);
    return;
  }
  throw cannot_claim(partial, EBUSY);
}

}  // namespace capstan
