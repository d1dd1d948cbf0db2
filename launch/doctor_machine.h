#pragma once
// What can be found out about this machine without the other ranks: processor, memory, libraries, GPU, file system.

#include <filesystem>
#include <vector>

#include "launch/doctor_finding.h"

namespace capstan {

/// `ranks_here`: ranks of the job on this machine.
std::vector<Finding> machine_findings(int ranks_here);

/// Kind of file system and free space of an existing directory.
std::vector<Finding> file_system_findings(const std::filesystem::path& directory);

}  // namespace capstan
