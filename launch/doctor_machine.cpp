#include "launch/doctor_machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include "launch/console.h"
#include "launch/doctor_gpu.h"
#include "launch/doctor_libraries.h"

namespace capstan {

namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

/// The value of a "name : value" line, as in /proc/cpuinfo and /proc/meminfo; empty when there is none.
std::string line_value(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, name.size(), name) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

Finding processor(int ranks_here) {
  const std::string model = line_value("/proc/cpuinfo", "model name"), set = instruction_set_text();
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const std::string found = fmt::format("{}, {} cores ({} usable by this process), {}",
                                        model.empty() ? "unknown model" : model, online, usable_cores(), set);
  if (ranks_here > online)
    return doubtful("processor", found, fmt::format("{} ranks share {} cores: start one per core", ranks_here, online));
  if (set.starts_with("avx")) return good("processor", found);
  return doubtful("processor", found, "training works but is slow; a processor with AVX2 or AVX-512 is much faster");
}

/// The memory limit of the container or job, where there is one.
std::optional<double> group_limit() {
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    double bytes = 0;
    if (std::ifstream(file) >> bytes && bytes < 1e15) return bytes;
  }
  return std::nullopt;
}

Finding memory() {
  const double total = std::strtod(line_value("/proc/meminfo", "MemTotal").c_str(), nullptr) * 1024;
  const double available = std::strtod(line_value("/proc/meminfo", "MemAvailable").c_str(), nullptr) * 1024;
  const std::optional<double> limit = group_limit();
  const std::string found =
      fmt::format("{}, {} available{}", bytes_text(total), bytes_text(available),
                  limit && *limit < total ? fmt::format(", {} allowed to this group", bytes_text(*limit)) : "");
  if (std::min(available, limit.value_or(available)) < kGiB)
    return doubtful("memory", found, "less than 1 GiB: end other programs, or raise the limit of the job");
  return good("memory", found);
}

/// Open MPI passes messages between ranks of a machine through /dev/shm; containers often give it 64 MiB.
Finding shared_memory() {
  struct statvfs info {};
  if (statvfs("/dev/shm", &info) != 0)
    return doubtful("shared memory", "no /dev/shm", "mount a tmpfs there: MPI is slow without it");
  const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
  const std::string found = fmt::format("/dev/shm, {} free", bytes_text(free));
  if (free < 32.0 * 1024 * 1024)
    return doubtful("shared memory", found, "under 32 MiB: give the container more (docker run --shm-size=1g)");
  return good("shared memory", found);
}

Finding open_files() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string found = fmt::format("{} per process", limit.rlim_cur);
  if (limit.rlim_cur < 1024) return doubtful("open files", found, "raise it: ulimit -n 4096");
  return good("open files", found);
}

Finding hdf5() {
  const std::string version = hdf5_text();
  if (version.empty())
    return broken("HDF5", "not loaded", "corpora are HDF5 files: install libhdf5-dev and build again",
                  ExitCode::internal);
  return good("HDF5", version);
}

std::string file_system_name(long type) {
  switch (static_cast<unsigned long>(type) & 0xffffffffUL) {
    case 0xef53:
      return "ext4";
    case 0x58465342:
      return "xfs";
    case 0x9123683e:
      return "btrfs";
    case 0x2fc12fc1:
      return "zfs";
    case 0x01021994:
      return "tmpfs";
    case 0x794c7630:
      return "overlay";
    case 0x6969:
      return "nfs";
    case 0x0bd00bd0:
      return "lustre";
    case 0x47504653:
      return "gpfs";
    case 0x00c36400:
      return "ceph";
    case 0x19830326:
      return "fhgfs (BeeGFS)";
    case 0x65735546:
      return "fuse";
    case 0x01021997:
      return "9p";
    default:
      return fmt::format("type {:#x}", static_cast<unsigned long>(type));
  }
}

}  // namespace

std::vector<Finding> machine_findings(int ranks_here) {
  std::vector<Finding> out = {processor(ranks_here),         memory(), shared_memory(), open_files(),
                              good("oneDNN", onednn_text()), hdf5()};
  for (Finding& finding : gpu_findings(gpu_report(), kernels::cuda_build())) out.push_back(std::move(finding));
  return out;
}

std::vector<Finding> file_system_findings(const std::filesystem::path& directory) {
  struct statfs info {};
  if (statfs(directory.c_str(), &info) != 0)
    return {broken("file system", fmt::format("{}: {}", directory.string(), std::strerror(errno)),
                   "give an existing directory with --dir", ExitCode::missing_input)};
  const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_bsize);
  const std::string name = file_system_name(static_cast<long>(info.f_type));
  const std::string found = fmt::format("{}: {}, {} free", directory.string(), name, bytes_text(free));
  if (info.f_files > 0 && info.f_ffree < 1000)
    return {doubtful("file system", found, "almost no inodes left: remove files")};
  if (free < kGiB) return {doubtful("file system", found, "less than 1 GiB: checkpoints may not fit")};
  if (name == "tmpfs")
    return {doubtful("file system", found, "tmpfs is memory: what is saved there is gone at a reboot")};
  return {good("file system", found)};
}

}  // namespace capstan
