#include "launch/host_memory.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <map>
#include <optional>
#include <sstream>

namespace capstan {
namespace {

namespace fs = std::filesystem;

constexpr double kUnlimited = 1e18;  // version 1 has no word for it: a number near 2^63

std::optional<double> number_in(const fs::path& path) {
  std::ifstream in(path);
  double value = 0;
  return in >> value ? std::optional(value) : std::nullopt;  // "max" is no number
}

/// The sum of some lines "name number" of a file; what is missing counts 0.
double sum_of(const fs::path& path, std::initializer_list<std::string_view> names) {
  std::ifstream in(path);
  std::string line, name;
  double sum = 0, value = 0;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    if (words >> name >> value && std::find(names.begin(), names.end(), name) != names.end()) sum += value;
  }
  return sum;
}

uint64_t inode_of(const fs::path& folder) {
  struct stat facts {};
  return stat(folder.c_str(), &facts) == 0 ? facts.st_ino : 0;
}

/// The names that the two versions of control groups have for the same things.
struct GroupFiles {
  fs::path base;
  const char *limit, *used;
  std::initializer_list<std::string_view> reclaimable;
};

/// The group of this path and all around it. In a container the path may be the host's, which is not to be seen here;
/// the base is there and is the container's own group.
void add_groups(const GroupFiles& files, fs::path path, std::vector<MemoryLimit>& limits) {
  for (path = path.lexically_normal();; path = path.parent_path()) {
    const fs::path folder = files.base / path.relative_path();
    const auto limit = number_in(folder / files.limit), used = number_in(folder / files.used);
    if (limit && used && *limit < kUnlimited)
      limits.push_back({path.string(),
                        std::clamp(*limit - *used + sum_of(folder / "memory.stat", files.reclaimable), 0.0, *limit),
                        inode_of(folder)});
    if (path == path.parent_path()) return;
  }
}

}  // namespace

std::vector<MemoryLimit> memory_limits(const fs::path& root) {
  const double free = 1024 * sum_of(root / "proc/meminfo", {"MemAvailable:"});
  std::vector<MemoryLimit> limits{{"", free > 0 ? free : kUnlimited}};
  const fs::path groups = root / "sys/fs/cgroup";
  std::ifstream in(root / "proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {  // "4:memory:/path", version 2: "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (path.empty() || path[0] != '/') continue;
    if (controllers == ",,")
      add_groups({groups, "memory.max", "memory.current", {"inactive_file", "active_file", "slab_reclaimable"}}, path,
                 limits);
    if (controllers.find(",memory,") != std::string::npos)
      add_groups({groups / "memory",
                  "memory.limit_in_bytes",
                  "memory.usage_in_bytes",
                  {"total_inactive_file", "total_active_file"}},
                 path, limits);
  }
  return limits;
}

double memory_available() {
  double least = kUnlimited;
  for (const MemoryLimit& limit : memory_limits()) least = std::min(least, limit.bytes);
  return least;
}

}  // namespace capstan
