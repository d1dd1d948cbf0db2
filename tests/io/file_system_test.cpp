// label: cpu
// The atomic-write helpers: what is on disk after success, after each injected failure, and on a real full disk.
#include "io/file_system.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "core/error.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {
namespace fs = std::filesystem;

class FileSystem : public testing::Test {
 protected:
  const support::TemporaryDirectory directory_;
  const fs::path root_ = directory_.path();
};

ExitCode code_of(const std::function<void()>& action, std::string* message = nullptr) {
  const support::Outcome outcome = support::outcome_of(action);
  if (message) *message = outcome.message;
  return outcome.code;
}

// The failpoint table is read once per process, so a child is this program started again: with CAPSTAN_TEST_CHILD set
// it writes "new" there before main() and exits with the Error's code.
[[maybe_unused]] const bool kChildIsDone = [] {
  if (const char* path = std::getenv("CAPSTAN_TEST_CHILD"))
    _exit(static_cast<int>(code_of([&] { write_file_atomically(path, "new"); })));
  return true;
}();

int write_new_in_child(const std::string& failpoints, const fs::path& path) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("CAPSTAN_FAIL", failpoints.c_str(), 1);
    setenv("CAPSTAN_TEST_CHILD", path.c_str(), 1);
    execl("/proc/self/exe", "file_system_test", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST_F(FileSystem, WritesAndReplacesAtomically) {
  write_file_atomically(root_ / "a", "one");
  EXPECT_EQ(read_whole_file(root_ / "a", 100), "one");
  write_file_atomically(root_ / "a", "two, longer");
  EXPECT_EQ(read_whole_file(root_ / "a", 100), "two, longer");
  EXPECT_FALSE(fs::exists(root_ / "a.partial"));
}

TEST_F(FileSystem, AFileThatWasNotFinishedIsRemoved) {
  {
    DurableFile file(root_ / "b.partial");
    file.write("half");
  }
  EXPECT_FALSE(fs::exists(root_ / "b.partial"));
}

/// Large enough that the disk is set to work before the end.
TEST_F(FileSystem, ALargeFileHoldsWhatWasWrittenAndIsRemovedWhenItFails) {
  std::string block(3'000'001, ' ');
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 2654435761u >> 13);
  constexpr int kBlocks = 23;
  for (const bool finishes : {true, false}) {
    {
      DurableFile file(root_ / "large");
      for (int i = 0; i < kBlocks; ++i) file.write(block);
      if (finishes) file.sync_and_close();
    }
    EXPECT_EQ(fs::exists(root_ / "large"), finishes);
    if (!finishes) break;
    const std::string whole = read_whole_file(root_ / "large", kBlocks * block.size());
    ASSERT_EQ(whole.size(), kBlocks * block.size());
    for (int i = 0; i < kBlocks; ++i)
      EXPECT_EQ(whole.compare(static_cast<size_t>(i) * block.size(), block.size(), block), 0) << i;
  }
}

TEST_F(FileSystem, EveryInjectedFailureLeavesTheOldFile) {
  for (const char* point : {"file.write:1:kill", "file.sync:1:kill", "file.rename:1:kill", "file.write:1:enospc",
                            "file.sync:1:enospc", "file.rename:1:enospc"}) {
    SCOPED_TRACE(point);
    write_file_atomically(root_ / "c", "old");
    const int status = write_new_in_child(point, root_ / "c");
    if (std::string(point).ends_with("kill"))
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else
      EXPECT_TRUE(WEXITSTATUS(status) == 74 && !fs::exists(root_ / "c.partial"));
    EXPECT_EQ(read_whole_file(root_ / "c", 100), "old");
  }
  const int status = write_new_in_child("directory.sync:1:kill", root_ / "c");
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_whole_file(root_ / "c", 100), "new");
}

TEST_F(FileSystem, ErrorsNameThePathAndTheCode) {
  std::string message;
  EXPECT_EQ(code_of([&] { read_whole_file(root_ / "none", 10); }, &message), ExitCode::missing_input);
  EXPECT_NE(message.find("none"), std::string::npos);
  write_file_atomically(root_ / "long", std::string(100, 'x'));
  EXPECT_EQ(code_of([&] { read_whole_file(root_ / "long", 99); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { DurableFile file(root_ / "no" / "such"); }), ExitCode::cannot_create);
  EXPECT_EQ(code_of([&] { create_directory_durably(root_ / "long" / "below"); }), ExitCode::cannot_create);
  EXPECT_EQ(code_of([&] { rename_durably(root_ / "none", root_ / "x"); }), ExitCode::io_error);
}

TEST_F(FileSystem, CreatesNestedDirectories) {
  create_directory_durably(root_ / "d" / "e" / "f" / "");
  EXPECT_TRUE(fs::is_directory(root_ / "d/e/f"));
  create_directory_durably(root_ / "d");
}

TEST_F(FileSystem, NamesFromFilesStayBeneathTheRoot) {
  write_file_atomically(root_ / "secret", "s");
  create_directory_durably(root_ / "in" / "sub");
  write_file_atomically(root_ / "in" / "sub" / "ok", "good");
  fs::create_symlink(root_ / "secret", root_ / "in" / "link");
  fs::create_directory_symlink(root_, root_ / "in" / "up");
  EXPECT_EQ(size_of(open_beneath(root_ / "in", "sub/ok"), "ok"), 4u);
  const std::string with_nul("sub/ok\0x", 8);
  for (const std::string& name : {std::string("../secret"), root_.string() + "/secret", std::string("link"),
                                  std::string("up/secret"), std::string(""), std::string("sub/../../secret"),
                                  std::string("sub"), std::string("sub/"), with_nul, std::string("./sub/ok")})
    EXPECT_EQ(code_of([&] { open_beneath(root_ / "in", name); }), ExitCode::bad_data) << name;
  EXPECT_EQ(code_of([&] { open_beneath(root_ / "in", "absent"); }), ExitCode::missing_input);
}

TEST_F(FileSystem, WhatCannotBeOpenedIsAnErrorThatSaysWhy) {
  fs::create_symlink(root_ / "loop", root_ / "loop");
  fs::create_symlink(root_ / "nowhere", root_ / "dangling");
  write_file_atomically(root_ / "file", "text");
  ASSERT_EQ(mknod((root_ / "socket").c_str(), S_IFSOCK | 0600, 0), 0);
  EXPECT_TRUE(anything_at(root_ / "loop"));
  EXPECT_TRUE(anything_at(root_ / "dangling"));
  EXPECT_FALSE(anything_at(root_ / "nowhere"));
  EXPECT_FALSE(anything_at(root_ / "file" / "in"));
  EXPECT_TRUE(file_at(root_ / "file"));
  EXPECT_FALSE(file_at(root_ / "dangling"));
  EXPECT_FALSE(file_at(root_ / "socket"));
  EXPECT_TRUE(directory_at(root_));
  EXPECT_FALSE(directory_at(root_ / "file"));
  std::string message;
  for (const auto& ask : {anything_at, directory_at, file_at}) {
    EXPECT_EQ(code_of([&] { ask(root_ / "loop" / "in"); }, &message), ExitCode::bad_data);
    EXPECT_NE(message.find("loop"), std::string::npos) << message;
    EXPECT_EQ(code_of([&] { ask(root_ / std::string(300, 'n')); }), ExitCode::missing_input);
  }
  EXPECT_EQ(code_of([&] { directory_at(root_ / "loop"); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { file_at(root_ / "loop"); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { read_whole_file(root_ / "loop", 10); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { read_whole_file(root_ / "socket", 10); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { open_beneath(root_, "socket"); }), ExitCode::bad_data);
  EXPECT_EQ(code_of([&] { open_beneath(root_, "loop"); }, &message), ExitCode::bad_data);
  EXPECT_NE(message.find("cp -rL"), std::string::npos) << message;
  EXPECT_EQ(read_file_beneath(root_, "file", 4), "text");
  EXPECT_EQ(code_of([&] { read_file_beneath(root_, "file", 3); }), ExitCode::bad_data);
  for (const fs::path& path : {root_ / "loop" / "new", root_ / std::string(300, 'n'), root_ / "file" / "new"})
    EXPECT_EQ(code_of([&] { create_directory_durably(path); }), ExitCode::cannot_create) << path;
}

TEST_F(FileSystem, AFullDiskIsAnIoErrorAndKeepsTheOldFile) {
  const fs::path small = root_ / "small";
  fs::create_directory(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=256k") != 0) GTEST_SKIP() << "cannot mount a tmpfs here";
  write_file_atomically(small / "kept", "old");
  std::string message;
  EXPECT_EQ(code_of([&] { write_file_atomically(small / "kept", std::string(1 << 20, 'x')); }, &message),
            ExitCode::io_error);
  EXPECT_NE(message.find("kept"), std::string::npos);
  EXPECT_NE(message.find("space"), std::string::npos);
  EXPECT_EQ(read_whole_file(small / "kept", 10), "old");
  EXPECT_FALSE(fs::exists(small / "kept.partial"));
  umount(small.c_str());
}

}  // namespace
}  // namespace capstan
