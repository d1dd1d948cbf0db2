#pragma once
// How much memory this process may still take: what the kernel says can be had without swapping, and what each control
// group that holds the process has left of its limit, either version of them. Page cache counts as left: the kernel
// gives it up. Swap does not: a model that computes in it does not get on.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace capstan {

struct MemoryLimit {
  std::string group;   ///< path of the control group; empty: the host itself
  double bytes = 0;    ///< left
  uint64_t inode = 0;  ///< of the group's folder: the kernel's number of the group, in whatever container it is seen
};

/// Of the host, then of every group with a limit, from the innermost outwards. root: where proc and sys are.
std::vector<MemoryLimit> memory_limits(const std::filesystem::path& root = "/");

/// The least of them.
double memory_available();

}  // namespace capstan
