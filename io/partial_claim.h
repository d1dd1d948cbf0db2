#pragma once
// PartialClaim: the right to write under a `.partial` name. Two programs that are given one name would else take each
// other's half-written files away; the second is refused instead. A byte-range lock on an empty file beside it,
// `NAME.partial.lock`, says who is at work: such locks, unlike those on directories, hold among all hosts of a network
// file system. A killed program's lock is gone with it; what it left is cleared, and under the claim alone. Rule for
// callers: ask whether the final name is free before the claim (so that nothing is cleared for nothing) and after it (a
// job may have finished in between); hold the claim until the rename is done. Where a file system has no locks, nobody
// is refused.

#include <filesystem>

#include "io/file_system.h"

namespace capstan {

/// Error cannot_create where something has this name, or where nothing can have it.
void refuse_taken(const std::filesystem::path& final_name);

class PartialClaim {
 public:
  enum class Kind { file, directory };
  /// Makes an empty file or directory of that name. Error cannot_create when it cannot be, or somebody writes there.
  PartialClaim(const std::filesystem::path& partial, Kind kind);

 private:
  /// The lock file, there and locked for as long as this is.
  class Lock {
   public:
    explicit Lock(const std::filesystem::path& partial);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::filesystem::path path_;
    FileDescriptor file_;
  };

  Lock lock_;
};

}  // namespace capstan
