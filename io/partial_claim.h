#pragma once
// PartialClaim: the right to write under a `.partial` name. Two programs that are given one name would else take each
// other's half-written files away; the second is refused instead. A lock of the kernel's on the very file or directory
// says who is at work, so what a killed program left is known as such, is cleared and used again. Rule for callers: ask
// whether the final name is free before the claim (so that nothing is cleared for nothing) and after it (a job may have
// finished in between); hold the claim until the rename is done. Where a file system has no locks, nobody is refused.

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
  FileDescriptor held_;
};

}  // namespace capstan
