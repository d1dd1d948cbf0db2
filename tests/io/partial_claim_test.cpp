// label: cpu
// Who may write under a .partial name: one at a time, after a killed one, and never what was published.
#include "io/partial_claim.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/error.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {
namespace fs = std::filesystem;
using Kind = PartialClaim::Kind;

class Partial : public ::testing::TestWithParam<Kind> {
 protected:
  std::string refusal() const {
    return support::refusal_of(ExitCode::cannot_create, [&] { PartialClaim(partial_, GetParam()); });
  }
  bool is_clear() const {
    return GetParam() == Kind::file ? fs::is_regular_file(partial_) && fs::file_size(partial_) == 0
                                    : fs::is_directory(partial_) && fs::is_empty(partial_);
  }
  const support::TemporaryDirectory directory_;
  const fs::path partial_ = directory_.path() / "model.partial", lock_ = directory_.path() / "model.partial.lock";
};

TEST_P(Partial, IsHeldByOne) {
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
  EXPECT_NE(refusal().find("model.partial"), std::string::npos);
  for (const Kind kind : {Kind::file, Kind::directory})  // nor by one that would make something else of it
    EXPECT_THROW(PartialClaim(partial_, kind), Error);
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, LeavesNoLock) {
  { const PartialClaim claim(partial_, GetParam()); }
  EXPECT_FALSE(fs::exists(lock_));
  fs::create_symlink("elsewhere", lock_);  // not ours: neither followed nor taken away
  EXPECT_FALSE(refusal().empty());
  EXPECT_FALSE(fs::exists(directory_.path() / "elsewhere"));
  EXPECT_TRUE(fs::is_symlink(lock_));
}

TEST_P(Partial, IsHeldAmongProcesses) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const PartialClaim claim(partial_, GetParam());
    if (write(ready[1], "x", 1) == 1) pause();
    _exit(1);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_NE(refusal().find("another program is writing"), std::string::npos);
  EXPECT_TRUE(is_clear());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  for (const int end : ready) close(end);
  EXPECT_TRUE(fs::exists(lock_));  // left by the killed one, of no harm
  { const PartialClaim claim(partial_, GetParam()); }
  EXPECT_FALSE(fs::exists(lock_));
}

/// Many come at once and go at once: never do two hold it, nor is the name's lock taken away under the one that does.
TEST_P(Partial, IsHeldByOneOfMany) {
  std::atomic<int> holders{0}, claims{0}, most{0};
  const auto come_and_go = [&] {
    for (int i = 0; i < 2000; ++i) {
      try {
        const PartialClaim claim(partial_, GetParam());
        most = std::max(most.load(), ++holders);
        std::this_thread::yield();
        --holders, ++claims;
      } catch (const Error&) {
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back(come_and_go);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
  EXPECT_GT(claims, 0);
  EXPECT_FALSE(fs::exists(lock_));
}

TEST_P(Partial, LeftBehindIsUsedAgain) {
  { const PartialClaim killed(partial_, GetParam()); }
  if (GetParam() == Kind::file) write_file_atomically(partial_, "old");
  if (GetParam() == Kind::directory) {
    fs::create_directories(partial_ / "deep" / "er");
    write_file_atomically(partial_ / "deep" / "file", "old");
  }
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, OfAnotherKindMakesRoom) {
  { const PartialClaim killed(partial_, GetParam() == Kind::file ? Kind::directory : Kind::file); }
  { const PartialClaim claim(partial_, GetParam()); }
  EXPECT_TRUE(is_clear());
  fs::remove(partial_);
  write_file_atomically(directory_.path() / "precious", "text");
  fs::create_symlink(directory_.path() / "precious", partial_);
  const PartialClaim claim(partial_, GetParam());
  EXPECT_TRUE(is_clear());
  EXPECT_FALSE(fs::is_symlink(partial_));
  EXPECT_EQ(read_whole_file(directory_.path() / "precious", 10), "text");
}

TEST_P(Partial, ThatWasRenamedLeavesTheNameFree) {
  {
    const PartialClaim first(partial_, GetParam());
    fs::rename(partial_, directory_.path() / "model");
    EXPECT_FALSE(refusal().empty());  // until the claim ends
  }
  EXPECT_NE(
      support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(directory_.path() / "model"); }).find("there"),
      std::string::npos);
  const PartialClaim second(partial_, GetParam());
  EXPECT_TRUE(is_clear());
}

TEST_P(Partial, ThatCannotBeIsRefused) {
  write_file_atomically(directory_.path() / "file", "");
  fs::create_symlink(directory_.path() / "loop", directory_.path() / "loop");
  for (const fs::path& path : {directory_.path() / "file" / "in", directory_.path() / "loop" / "in",
                               directory_.path() / std::string(300, 'n')}) {
    EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { PartialClaim(path, GetParam()); }).empty());
    EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(path); }).empty());
  }
  EXPECT_NO_THROW(refuse_taken(directory_.path() / "new"));
  EXPECT_FALSE(support::refusal_of(ExitCode::cannot_create, [&] { refuse_taken(directory_.path() / "loop"); }).empty());
}

INSTANTIATE_TEST_SUITE_P(Kinds, Partial, ::testing::Values(Kind::file, Kind::directory),
                         [](const auto& info) { return info.param == Kind::file ? "File" : "Directory"; });

}  // namespace
}  // namespace capstan
