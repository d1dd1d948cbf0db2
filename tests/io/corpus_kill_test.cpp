// label: cpu
// A packer that is killed, or whose disk is full, at every one of its steps: no file with a final name is ever broken,
// and the same build run again gives the bytes of an undisturbed one.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "io/corpus/shard.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

constexpr uint64_t kShardTokens = 30000;

// The failpoint table is read once per process, so a child is this program started again: with CAPSTAN_TEST_BUILD set
// it builds there before main() and exits with the Error's code.
[[maybe_unused]] const bool kChildIsDone = [] {
  const char *out = std::getenv("CAPSTAN_TEST_BUILD"), *input = std::getenv("CAPSTAN_TEST_INPUT");
  if (out && input) std::exit(static_cast<int>(outcome_of([&] { build(out, {input}, kShardTokens); }).code));
  return true;
}();

int build_in_child(const std::string& failpoints, const fs::path& out, const fs::path& input) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("CAPSTAN_FAIL", failpoints.c_str(), 1);
    setenv("CAPSTAN_TEST_BUILD", out.c_str(), 1);
    setenv("CAPSTAN_TEST_INPUT", input.c_str(), 1);
    execl("/proc/self/exe", "corpus_kill_test", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

class CorpusKill : public testing::Test {
 protected:
  CorpusKill() {
    put_jsonl(input(), some_documents(500, 8));
    build(directory_ / "whole", {input()}, kShardTokens);
  }
  fs::path input() const { return directory_ / "d.jsonl"; }
  /// Shards that bear their final name are byte for byte those of the undisturbed build.
  size_t expect_good_shards(const fs::path& out) const {
    size_t found = 0;
    if (!fs::exists(out)) return 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(out))
      if (entry.path().extension() == ".h5" || entry.path().filename() == kManifestName) {
        EXPECT_TRUE(get(entry.path()) == get(directory_.path() / "whole" / entry.path().filename())) << entry.path();
        ++found;
      }
    return found;
  }
  void expect_repeatable(const fs::path& out) const {
    if (fs::exists(out / kManifestName))
      EXPECT_EQ(build_in_child("", out, input()) >> 8, 73);
    else
      EXPECT_EQ(build_in_child("", out, input()), 0);
    EXPECT_TRUE(get(out / kManifestName) == get(directory_ / "whole/manifest.json"));
    EXPECT_TRUE(verify_corpus(out, 5).empty());
  }

  TemporaryDirectory directory_;
};

TEST_F(CorpusKill, KilledAtEveryStep) {
  size_t kills = 0;
  for (const std::string point : {"corpus.write", "corpus.flush", "corpus.close", "file.write", "file.sync",
                                  "file.rename", "directory.sync", "journal.append"})
    for (int k = 1; k < 200; k += (k + 1) / 2) {
      SCOPED_TRACE(fmt::format("{}:{}", point, k));
      const fs::path out = directory_ / fmt::format("{}-{}", point, k);
      const int status = build_in_child(fmt::format("{}:{}:kill", point, k), out, input());
      if (WIFEXITED(status)) {  // it has fewer such steps
        EXPECT_EQ(WEXITSTATUS(status), 0);
        break;
      }
      ++kills;
      EXPECT_EQ(WTERMSIG(status), SIGKILL);
      expect_good_shards(out);
      expect_repeatable(out);
      fs::remove_all(out);
    }
  EXPECT_GE(kills, 20u);
}

TEST_F(CorpusKill, AFailedStepIsAnIoErrorAndLeavesNoPartialShard) {
  for (const std::string point : {"corpus.write", "corpus.flush", "corpus.close", "file.write", "file.sync",
                                  "file.rename", "directory.sync", "corpus.read", "journal.append"})
    for (const int k : {1, 3}) {
      SCOPED_TRACE(fmt::format("{}:{}", point, k));
      const fs::path out = directory_ / fmt::format("{}-{}", point, k);
      EXPECT_EQ(build_in_child(fmt::format("{}:{}:enospc", point, k), out, input()) >> 8, 74);
      expect_good_shards(out);
      for (const fs::directory_entry& entry : fs::directory_iterator(out))
        EXPECT_NE(entry.path().extension(), ".partial") << entry.path();
      EXPECT_FALSE(fs::exists(out / kManifestName));
      expect_repeatable(out);
    }
}

class FullDisk : public CorpusKill {
 protected:
  ~FullDisk() override {
    if (mounted_) umount(disk().c_str());
  }
  fs::path disk() const { return directory_ / "disk"; }
  bool mount_disk(const char* size) {
    fs::create_directory(disk());
    mounted_ = mount("tmpfs", disk().c_str(), "tmpfs", 0, size) == 0;
    return mounted_;
  }
  bool mounted_ = false;
};

TEST_F(FullDisk, GivesAnIoErrorAndNoManifest) {
  if (!mount_disk("size=256k")) GTEST_SKIP() << "cannot mount a tmpfs here";
  EXPECT_EQ(build_in_child("", disk() / "c", input()) >> 8, 74);
  EXPECT_GT(expect_good_shards(disk() / "c"), 0u);
  EXPECT_FALSE(fs::exists(disk() / "c" / kManifestName));
  for (const fs::directory_entry& entry : fs::directory_iterator(disk() / "c"))
    EXPECT_NE(entry.path().extension(), ".partial") << entry.path();
  EXPECT_EQ(outcome_of([&] { Corpus::open(disk() / "c"); }).code, ExitCode::missing_input);
}

TEST_F(FullDisk, AlsoWhenNotEvenTheFirstShardFits) {
  if (!mount_disk("size=64k")) GTEST_SKIP() << "cannot mount a tmpfs here";
  EXPECT_EQ(build_in_child("", disk() / "c", input()) >> 8, 74);
  EXPECT_EQ(expect_good_shards(disk() / "c"), 0u);
}

}  // namespace
}  // namespace capstan
