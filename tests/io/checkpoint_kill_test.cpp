// label: cpu
// A save that is killed, or meets a full disk, at every k-th operation on files: what is on disk afterwards always
// loads as the old state or the new one, and the next save works.
#include <sys/mount.h>

#include "tests/io/checkpoint_child.h"

namespace capstan::testing {
namespace {

constexpr const char* kPoints[] = {"file.write",          "file.sync",
                                   "file.rename",         "directory.sync",
                                   "checkpoint.manifest", "checkpoint.before_rename",
                                   "checkpoint.prune",    "checkpoint.after_rename"};

class CheckpointKillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    save_alone(start(), 5);
    save_alone(start(), 10);
  }
  fs::path start() const { return directory_.path() / "start"; }
  fs::path root() const { return directory_.path() / "checkpoints"; }
  fs::path output() const { return directory_.path() / "output"; }
  void fresh_root() {
    fs::remove_all(root());
    fs::copy(start(), root(), fs::copy_options::recursive);
  }
  int run(const std::string& fail) { return finish_child(start_child(root(), fail, output())); }
  /// The step found; checks that it is step 10 or 20 and whole.
  uint64_t expect_old_or_new() {
    std::vector<std::string> complaints;
    auto checkpoint = open_newest_good(root(), complaints);
    EXPECT_TRUE(checkpoint);
    if (!checkpoint) return 0;
    EXPECT_TRUE(checkpoint->step() == 10 || checkpoint->step() == 20) << checkpoint->step();
    expect_whole(*checkpoint);
    for (const CheckpointLocation& location : find_checkpoints(root()))  // no name without .partial is ever half
      EXPECT_NO_THROW(Checkpoint::open(location.path).verify()) << location.path;
    return checkpoint->step();
  }
  TemporaryDirectory directory_;
};

TEST_F(CheckpointKillTest, KilledAtEveryOperation) {
  int fired = 0, old_ones = 0, new_ones = 0;
  for (const char* point : kPoints)
    for (int k = 1;; ++k) {
      SCOPED_TRACE(fmt::format("{}:{}", point, k));
      ASSERT_LT(k, 200);
      fresh_root();
      const int status = run(fmt::format("{}:{}:kill", point, k));
      const uint64_t found = expect_old_or_new();
      if (WIFEXITED(status)) {  // fewer than k hits
        EXPECT_EQ(WEXITSTATUS(status), 0) << read_file(output());
        EXPECT_EQ(found, 20u);
        EXPECT_GT(k, 1) << "this failpoint was never hit";
        break;
      }
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      ++fired;
      ++(found == 10 ? old_ones : new_ones);
      save_alone(root(), 30);  // the next save clears up and works
      std::vector<std::string> complaints;
      auto next = open_newest_good(root(), complaints);
      ASSERT_TRUE(next);
      EXPECT_EQ(next->step(), 30u);
      for (const auto& entry : fs::directory_iterator(root())) EXPECT_NE(entry.path().extension(), ".partial");
    }
  EXPECT_GT(fired, 20);
  EXPECT_GT(old_ones, 10);
  EXPECT_GT(new_ones, 3);
}

TEST_F(CheckpointKillTest, FullDiskAtEveryOperation) {
  int refused = 0, warned = 0;
  for (const char* point : kPoints)
    for (int k = 1;; ++k) {
      SCOPED_TRACE(fmt::format("{}:{}", point, k));
      ASSERT_LT(k, 200);
      fresh_root();
      const int status = run(fmt::format("{}:{}:enospc", point, k));
      ASSERT_TRUE(WIFEXITED(status));
      const uint64_t found = expect_old_or_new();
      if (WEXITSTATUS(status) == 0) {
        EXPECT_EQ(found, 20u);
        if (read_file(output()).find("warning: ") == std::string::npos) break;  // fewer than k hits
        ++warned;
        continue;
      }
      EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::io_error)) << read_file(output());
      EXPECT_FALSE(fs::exists(root() / "step-20.partial"));
      EXPECT_TRUE(fs::exists(root() / "step-5")) << "an old one was deleted although the save failed";
      ++refused;
    }
  EXPECT_GT(refused, 10);
  EXPECT_GT(warned, 3);
}

/// A file system in memory of a given size; mounted() is false where that is not permitted.
class SmallDisk {
 public:
  SmallDisk(const fs::path& at, const std::string& size) : path_(at) {
    fs::create_directory(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  fs::path path_;
  bool mounted_ = false;
};

TEST_F(CheckpointKillTest, RealFullDisk) {
  SmallDisk disk(directory_.path() / "disk", "1m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not permitted here";
  const fs::path root = directory_.path() / "disk" / "checkpoints";
  save_alone(root, 10);
  const auto before = tree_of(root);
  const std::vector<float> values(500'000);
  const auto errors = run_ranks(2, [&](CheckpointGroup& group) {
    const auto rank = static_cast<uint64_t>(group.rank());
    save_checkpoint(root, 20, {{"w", DType::f32, {500'000}}}, {{"w", rank * 250'000, 250'000, values.data()}}, "{}",
                    group, 2);
  });
  for (const std::exception_ptr& error : errors)
    expect_error(ExitCode::io_error, {"No space left", "rank-0000"}, [&] {
      if (error) std::rethrow_exception(error);
    });
  EXPECT_EQ(tree_of(root), before);
  save_alone(root, 30);  // the space is free again
  Checkpoint checkpoint = Checkpoint::open(root / "step-30");
  expect_whole(checkpoint);
}

TEST_F(CheckpointKillTest, CannotCreate) {
  write_file(directory_.path() / "file", "in the way");
  LoneGroup alone;
  expect_error(ExitCode::cannot_create, {"file"},
               [&] { save_state(directory_.path() / "file" / "checkpoints", 20, Cut::whole, alone); });
}

}  // namespace
}  // namespace capstan::testing

int main(int argc, char** argv) { return capstan::testing::run_tests_or_child(argc, argv); }
