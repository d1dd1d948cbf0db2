// label: plan
// What may still be taken of a host's memory, from made-up trees of /proc and /sys as kernels with either version of
// control groups show them.
#include "launch/host_memory.h"

#include <gtest/gtest.h>
#include <filesystem>
#include <fstream>

#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;

class HostMemory : public testing::Test {
 protected:
  HostMemory() {
    write("proc/meminfo", "MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:  1000 kB\nSwapFree:  5000 kB\n");
  }

  void write(const fs::path& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  /// "=1024000 /a=300": group and bytes of each limit.
  std::string found() const {
    std::string text;
    for (const MemoryLimit& limit : memory_limits(root_))
      text += (text.empty() ? "" : " ") + limit.group + "=" + std::to_string(static_cast<long>(limit.bytes));
    return text;
  }

  const support::TemporaryDirectory holder_;
  const fs::path root_ = holder_.path();
};

TEST_F(HostMemory, WithoutGroupsItIsWhatTheKernelSaysIsAvailable) {
  EXPECT_EQ(found(), "=1024000");
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(found(), "=1024000");
}

TEST_F(HostMemory, Version2CountsEveryGroupWithALimitAndPageCacheAsLeft) {
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/memory.max", "max\n");
  write("sys/fs/cgroup/job/step/memory.current", "500\n");
  EXPECT_EQ(found(), "=1024000");
  write("sys/fs/cgroup/job/memory.max", "9000\n");
  write("sys/fs/cgroup/job/memory.current", "8000\n");
  write("sys/fs/cgroup/job/memory.stat", "anon 5000\ninactive_file 1200\nactive_file 30\nslab_reclaimable 4\n");
  EXPECT_EQ(found(), "=1024000 /job=2234");
  write("sys/fs/cgroup/job/step/memory.max", "600\n");
  EXPECT_EQ(found(), "=1024000 /job/step=100 /job=2234");
}

TEST_F(HostMemory, Version1AndAContainerThatSeesItsGroupAsTheRoot) {
  write("proc/self/cgroup", "12:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "6000\n");
  write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 7\n");
  EXPECT_EQ(found(), "=1024000 /=1057");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // no limit
  EXPECT_EQ(found(), "=1024000");
}

TEST_F(HostMemory, GroupsOfContainersDifferAlsoWhereEachSeesItsOwnAsTheRoot) {
  const auto inode_in = [&](const std::string& container) {
    write(container + "/proc/self/cgroup", "0::/\n");
    write(container + "/sys/fs/cgroup/memory.max", "600\n");
    write(container + "/sys/fs/cgroup/memory.current", "500\n");
    const std::vector<MemoryLimit> limits = memory_limits(root_ / container);
    EXPECT_EQ(limits.back().group, "/");
    EXPECT_EQ(limits.front().inode, 0u);
    return limits.back().inode;
  };
  EXPECT_NE(inode_in("a"), inode_in("b"));
  fs::create_directory_symlink("a", root_ / "c");  // another way to the same
  EXPECT_EQ(inode_in("c"), inode_in("a"));
}

TEST_F(HostMemory, StrangeFilesAreNoLimit) {
  write("proc/self/cgroup", "nonsense\n::\n0::\n1:memory\n0::relative\n0::/../../x\n");
  write("proc/meminfo", "");
  EXPECT_EQ(found(), "=1000000000000000000");
}

}  // namespace
}  // namespace capstan
