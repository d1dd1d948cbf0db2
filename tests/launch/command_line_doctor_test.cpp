// label: ranks
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <mutex>

#include "launch/doctor_machine.h"
#include "launch/doctor_ranks.h"
#include "parallel/rank_threads.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class DoctorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("capstan_doctor_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  bool empty() const { return fs::directory_iterator(folder_) == fs::directory_iterator(); }

  /// What all ranks found; fails when they differ.
  Finding on_ranks(int ranks, const std::function<Finding(Communicator&)>& body) {
    std::vector<Finding> all(static_cast<size_t>(ranks));
    run_rank_threads(ranks, [&](Communicator& world) { all[static_cast<size_t>(world.rank())] = body(world); });
    for (const Finding& finding : all) {
      EXPECT_EQ(finding.verdict, all[0].verdict);
      if (finding.verdict == Finding::Verdict::fail) EXPECT_EQ(finding.found, all[0].found);
    }
    return all[0];
  }

  fs::path folder_;
};

/// A communicator that does something to the disk before its n-th all_gather (each agreement of the ranks makes some).
class Meddler : public Communicator {
 public:
  Meddler(Communicator& inner, std::function<void()> meddle) : inner_(inner), meddle_(std::move(meddle)) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void all_reduce(void* data, size_t count, DType dtype, ReduceOp op, Reduction order) override {
    meddle_();
    inner_.all_reduce(data, count, dtype, op, order);
  }
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction order) override {
    inner_.reduce_scatter(in, out, count, dtype, order);
  }
  void all_gather(const void* in, void* out, size_t count, DType dtype) override {
    meddle_();
    inner_.all_gather(in, out, count, dtype);
  }
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override {
    inner_.all_to_all(in, out, count, dtype);
  }
  void shift(const void* in, void* out, size_t bytes, int distance) override { inner_.shift(in, out, bytes, distance); }
  void broadcast(void* data, size_t bytes, int root) override { inner_.broadcast(data, bytes, root); }
  void barrier() override { inner_.barrier(); }
  void send(const void* data, size_t bytes, int to) override { inner_.send(data, bytes, to); }
  void receive(void* data, size_t bytes, int from) override { inner_.receive(data, bytes, from); }
  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int capacity) override {
    return inner_.open_channels(paths, capacity);
  }
  std::unique_ptr<Communicator> split(int colour, int key) override { return inner_.split(colour, key); }
  void abort(const std::string& why, int exit_code) override { inner_.abort(why, exit_code); }
  CommunicationCount count() const override { return inner_.count(); }
  std::string transport() const override { return inner_.transport(); }

 private:
  Communicator& inner_;
  std::function<void()> meddle_;
};

TEST_F(DoctorTest, WriteReadBackOnHealthyDisk) {
  for (int ranks : {1, 3}) {
    const Finding finding =
        on_ranks(ranks, [&](Communicator& world) { return write_read_back(world, folder_, 100003); });
    EXPECT_EQ(finding.verdict, Finding::Verdict::ok) << finding.found;
    EXPECT_TRUE(empty());
  }
}

TEST_F(DoctorTest, MissingDirectoryIsNotMade) {
  const fs::path missing = folder_ / "none";
  const Finding finding = on_ranks(2, [&](Communicator& world) { return write_read_back(world, missing, 1000); });
  EXPECT_EQ(finding.verdict, Finding::Verdict::fail);
  EXPECT_EQ(finding.code, ExitCode::io_error);
  EXPECT_FALSE(fs::exists(missing));
  EXPECT_EQ(file_system_findings(missing).at(0).verdict, Finding::Verdict::fail);
}

/// Runs the trial while `spoil` is done, once, to what rank 1 wrote, as soon as it is whole.
Finding with_spoiled_file(const fs::path& folder, size_t bytes, const std::function<void(const fs::path&)>& spoil) {
  Finding found;
  run_rank_threads(2, [&](Communicator& world) {
    bool done = false;
    Meddler meddler(world, [&] {
      if (world.rank() != 1 || done) return;
      for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.path().filename() == "rank-1" && entry.file_size() == bytes) {
          spoil(entry.path());
          done = true;
          return;
        }
    });
    const Finding mine = write_read_back(meddler, folder, bytes);
    if (world.rank() == 0) found = mine;
  });
  return found;
}

TEST_F(DoctorTest, SpoiledBytesAreFound) {
  const Finding flipped = with_spoiled_file(folder_, 50000, [](const fs::path& path) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(43210);
    const char was = static_cast<char>(file.get());
    file.seekp(43210);
    file.put(static_cast<char>(was ^ 4));
  });
  EXPECT_EQ(flipped.verdict, Finding::Verdict::fail);
  EXPECT_THAT(flipped.found, HasSubstr("at byte 43210"));
  EXPECT_TRUE(empty());

  const Finding cut = with_spoiled_file(folder_, 50000, [](const fs::path& path) { fs::resize_file(path, 49999); });
  EXPECT_EQ(cut.verdict, Finding::Verdict::fail);
  EXPECT_THAT(cut.found, HasSubstr("49999 bytes"));

  const Finding gone = with_spoiled_file(folder_, 50000, [](const fs::path& path) { fs::remove(path); });
  EXPECT_EQ(gone.verdict, Finding::Verdict::fail);
  EXPECT_THAT(gone.found, HasSubstr("must be shared"));
  EXPECT_TRUE(empty());
}

TEST_F(DoctorTest, CommunicationIsMeasuredAndChecked) {
  std::vector<Finding> findings;
  run_rank_threads(3, [&](Communicator& world) {
    const std::vector<Finding> mine = communication_findings(world, "a library", true);
    EXPECT_EQ(ranks_on_this_host(world), 3);
    if (world.rank() == 0) findings = mine;
  });
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_THAT(findings[0].found, HasSubstr("3 ranks on 1 machine"));
  EXPECT_NE(findings[1].verdict, Finding::Verdict::fail) << findings[1].found;
}

TEST_F(DoctorTest, MachineFindingsAreWhole) {
  const std::vector<Finding> findings = machine_findings(1);
  EXPECT_GE(findings.size(), 8u);
  for (const Finding& finding : findings) {
    EXPECT_FALSE(finding.subject.empty());
    EXPECT_FALSE(finding.found.empty()) << finding.subject;
    EXPECT_EQ(finding.advice.empty(), finding.verdict == Finding::Verdict::ok) << finding.subject;
  }
  EXPECT_EQ(machine_findings(100000)[0].verdict, Finding::Verdict::warn) << "more ranks than cores";
}

}  // namespace
}  // namespace capstan
