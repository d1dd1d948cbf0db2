// label: slow
// Power cuts. A copy of the image file behind a mounted ext4 is what the disk would hold if the power failed at that
// moment. A child saves on such a disk and stops itself at every operation on files; at each stop the image is copied,
// mounted (which replays the journal, as a reboot does) and must hold the old state or the new one, whole.
#include <sys/mount.h>

#include "tests/io/checkpoint_child.h"

namespace capstan::testing {
namespace {

bool shell(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

class LoopDisk {
 public:
  LoopDisk(const fs::path& image, const fs::path& at) : at_(at) {
    fs::create_directories(at);
    mounted_ = shell("mount -o loop " + image.string() + " " + at.string());
  }
  ~LoopDisk() {
    if (mounted_ && !shell("umount " + at_.string())) shell("umount -l " + at_.string());
  }
  bool mounted() const { return mounted_; }

 private:
  fs::path at_;
  bool mounted_ = false;
};

class PowerCutTest : public ::testing::Test {
 protected:
  fs::path image() const { return directory_.path() / "image"; }
  fs::path disk() const { return directory_.path() / "disk"; }
  fs::path root() const { return disk() / "checkpoints"; }

  bool make_disk() {
    write_file(image(), "");
    fs::resize_file(image(), 16 << 20);
    return shell("mkfs.ext4 -q -F " + image().string());
  }
  /// What survives when the power fails now: visit(directory of the mounted copy).
  void after_power_cut(const std::function<void(const fs::path&)>& visit) {
    const fs::path copy = directory_.path() / "copy", at = directory_.path() / "reboot";
    fs::copy_file(image(), copy, fs::copy_options::overwrite_existing);
    LoopDisk reboot(copy, at);
    ASSERT_TRUE(reboot.mounted());
    visit(at);
  }
  uint64_t surviving_step() {
    uint64_t step = 0;
    after_power_cut([&](const fs::path& at) {
      std::vector<std::string> complaints;
      auto checkpoint = open_newest_good(at / "checkpoints", complaints);
      ASSERT_TRUE(checkpoint) << (complaints.empty() ? "none at all" : complaints[0]);
      expect_whole(*checkpoint);
      step = checkpoint->step();
    });
    return step;
  }
  TemporaryDirectory directory_;
};

TEST_F(PowerCutTest, OldOrNewAtEveryOperation) {
  if (!make_disk()) GTEST_SKIP() << "mkfs.ext4 is not here";
  LoopDisk mounted(image(), disk());
  if (!mounted.mounted()) GTEST_SKIP() << "mounting a loop device is not permitted here";

  // The oracle can tell: a file that was renamed without a sync is not whole after the cut.
  write_file(disk() / "unsynced.tmp", std::string(100'000, 'x'));
  fs::rename(disk() / "unsynced.tmp", disk() / "unsynced");
  after_power_cut([](const fs::path& at) { EXPECT_NE(read_file(at / "unsynced"), std::string(100'000, 'x')); });

  save_alone(root(), 5);
  save_alone(root(), 10);
  ASSERT_EQ(surviving_step(), 10u);
  std::string stops;
  for (const char* point : {"file.write", "file.sync", "file.rename", "directory.sync", "checkpoint.manifest",
                            "checkpoint.before_rename", "checkpoint.after_rename", "checkpoint.prune"})
    for (int k = 1; k <= 40; ++k) stops += fmt::format("{}{}:{}:stop", stops.empty() ? "" : ",", point, k);
  const pid_t child = start_child(root(), stops, directory_.path() / "output");
  int cuts = 0, status = 0;
  uint64_t last = 10;
  while (waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status)) {
    SCOPED_TRACE(fmt::format("stop {}", ++cuts));
    const uint64_t step = surviving_step();
    EXPECT_TRUE(step == 10 || step == 20) << step;
    EXPECT_GE(step, last) << "the new one was there and is gone";
    last = step;
    kill(child, SIGCONT);
  }
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_file(directory_.path() / "output");
  EXPECT_GT(cuts, 10);
  EXPECT_EQ(surviving_step(), 20u) << "save returned, but the checkpoint does not survive a power cut";
}

}  // namespace
}  // namespace capstan::testing

int main(int argc, char** argv) { return capstan::testing::run_tests_or_child(argc, argv); }
