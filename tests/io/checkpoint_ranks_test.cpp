// label: ranks
// Checkpoints of several ranks: any cut gives the same content, any failure is everybody's, nobody is left waiting.
#include "core/communicator.h"
#include "io/checkpoint/save.h"
#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {
namespace {

class CheckpointRanksTest : public ::testing::Test {
 protected:
  fs::path root() const { return directory_.path() / "checkpoints"; }
  TemporaryDirectory directory_;
};

TEST_F(CheckpointRanksTest, AnyCutMergesToTheSameBytes) {
  save_alone(directory_.path() / "alone", 20);
  const auto wanted = tree_of(directory_.path() / "alone" / "step-20");
  for (const Cut cut : {Cut::whole, Cut::rows_and_columns, Cut::flat})
    for (const int ranks : {1, 2, 3, 5}) {
      SCOPED_TRACE(fmt::format("cut {} over {} ranks", static_cast<int>(cut), ranks));
      const fs::path saved = directory_.path() / "saved", merged = directory_.path() / "merged";
      fs::remove_all(saved);
      fs::remove_all(merged);
      save_by_ranks(saved, 20, cut, ranks);
      Checkpoint checkpoint = Checkpoint::open(saved / "step-20");
      expect_whole(checkpoint);
      checkpoint.verify();
      EXPECT_GT(checkpoint.manifest().files.size(), static_cast<size_t>(ranks) / 2);
      merge_checkpoint(checkpoint, merged);
      EXPECT_EQ(tree_of(merged / "step-20"), wanted);
    }
}

TEST_F(CheckpointRanksTest, AShardIsReadFromAnyCut) {
  save_by_ranks(root(), 20, Cut::flat, 3);
  const State state = make_state(20);
  Checkpoint checkpoint = Checkpoint::open(root() / "step-20");
  std::vector<std::vector<char>> kept;
  for (int rank = 0; rank < 4; ++rank)
    for (const Slice& slice : slices_of(state, Cut::rows_and_columns, rank, 4, kept)) {
      const Runs runs{slice.first_element, slice.count, slice.runs, slice.stride};
      const size_t bytes = runs.elements() * bytes_of(checkpoint.find(slice.tensor)->dtype);
      std::vector<char> got(bytes);
      checkpoint.read(slice.tensor, runs, got.data());
      EXPECT_EQ(0, std::memcmp(got.data(), slice.data, bytes)) << slice.tensor << " rank " << rank;
    }
}

TEST_F(CheckpointRanksTest, RanksVerifyTogether) {
  save_by_ranks(root(), 20, Cut::flat, 3);
  save_by_ranks(root(), 40, Cut::flat, 3);
  const fs::path spoiled = root() / "step-40" / "rank-00001.safetensors";
  flip_byte(spoiled, fs::file_size(spoiled) - 2);
  std::vector<std::string> said(2);
  rethrow_first(run_ranks(2, [&](CheckpointGroup& group) {
    std::vector<std::string> complaints;
    auto checkpoint = open_newest_good(root(), complaints, group);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->step(), 20u);
    ASSERT_EQ(complaints.size(), 1u);
    said[static_cast<size_t>(group.rank())] = complaints[0];
  }));
  EXPECT_NE(said[0].find("rank-00001.safetensors"), std::string::npos) << said[0];
  EXPECT_EQ(said[0], said[1]);
}

TEST_F(CheckpointRanksTest, ManySavesPruneTogether) {
  for (uint64_t step = 10; step <= 50; step += 10) save_by_ranks(root(), step, Cut::flat, 3, 2);
  const auto found = find_checkpoints(root());
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].step, 50u);
  EXPECT_EQ(found[1].step, 40u);
}

/// All ranks' messages when `spoil` changes what some rank gives to save; each rank must throw the same.
std::string common_error(const fs::path& root, ExitCode code, int ranks,
                         const std::function<void(int, std::vector<LogicalTensor>&, std::vector<Slice>&)>& spoil) {
  const State state = make_state(40);
  const auto errors = run_ranks(ranks, [&](CheckpointGroup& group) {
    std::vector<std::vector<char>> kept;
    std::vector<LogicalTensor> tensors = tensors_of(state);
    std::vector<Slice> slices = slices_of(state, Cut::flat, group.rank(), group.size(), kept);
    spoil(group.rank(), tensors, slices);
    save_checkpoint(root, 40, tensors, std::move(slices), state_json(40), group, 2);
  });
  std::string common;
  for (const std::exception_ptr& error : errors) {
    const std::string message = expect_error(code, {}, [&] {
      if (error) std::rethrow_exception(error);
    });
    if (common.empty()) common = message;
    EXPECT_EQ(message, common);
  }
  return common;
}

Slice& slice_named(std::vector<Slice>& slices, const std::string& name) {
  return *std::find_if(slices.begin(), slices.end(), [&](const Slice& s) { return s.tensor == name; });
}

TEST_F(CheckpointRanksTest, SlicesMustCoverEachTensorOnce) {
  save_alone(root(), 20);
  const auto before = tree_of(root());
  const auto refuse = [&](const std::string& word, const auto& spoil) {
    SCOPED_TRACE(word);
    const std::string message = common_error(root(), ExitCode::internal, 3, spoil);
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_EQ(tree_of(root()), before);
  };
  refuse("'embedding'", [](int rank, auto&, auto& slices) {
    if (rank == 1) slice_named(slices, "embedding").count -= 1;
  });
  refuse("'embedding'", [](int rank, auto&, auto& slices) {
    if (rank == 2) slice_named(slices, "embedding").first_element -= 1;
  });
  refuse("'scale'",
         [](int, auto&, auto& slices) { std::erase_if(slices, [](const Slice& s) { return s.tensor == "scale"; }); });
  refuse("'mask'", [](int, auto&, auto& slices) { slice_named(slices, "mask") = {"mask", 0, 5, "12345"}; });
  refuse("'unknown'", [](int rank, auto&, auto& slices) {
    if (rank == 2) slices.push_back({"unknown", 0, 1, "x"});
  });
  refuse("'counts'", [](int rank, auto& tensors, auto&) {
    for (LogicalTensor& tensor : tensors)
      if (rank == 1 && tensor.name == "counts") tensor.shape = {3, 1};
  });
  refuse("'more'", [](int rank, auto& tensors, auto&) {
    if (rank == 1) tensors.push_back({"more", DType::f32, {3}});
  });
  refuse("'half'", [](int rank, auto&, auto& slices) {
    if (rank == 0) slice_named(slices, "half").data = nullptr;
  });
}

TEST_F(CheckpointRanksTest, ARankNeedNotKnowTheOthersTensors) {
  const State state = make_state(20);
  rethrow_first(run_ranks(3, [&](CheckpointGroup& group) {
    std::vector<std::vector<char>> kept;
    const std::vector<Slice> slices = slices_of(state, Cut::whole, group.rank(), 3, kept);
    std::vector<LogicalTensor> tensors;
    for (const Slice& slice : slices) tensors.push_back(state.at(slice.tensor).tensor);
    if (group.rank() == 2) tensors.push_back(state.at("empty").tensor);
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
    save_checkpoint(root(), 20, tensors, slices, state_json(20), group, 2);
  }));
  Checkpoint checkpoint = Checkpoint::open(root() / "step-20");
  expect_whole(checkpoint);
}

TEST_F(CheckpointRanksTest, AFailingRankFailsAllAndLeavesTheOldOnes) {
  save_by_ranks(root(), 20, Cut::flat, 3);
  const auto before = tree_of(root());
  const auto fail_with = [&](int who, const Error& error) {
    return common_error(root(), error.code(), 3, [&, who](int rank, auto&, auto& slices) {
      if (rank != who) return;
      Slice& slice = slice_named(slices, "embedding");
      slice.data = nullptr;
      slice.fetch = [error](uint64_t, uint64_t, void*) { throw error; };
    });
  };
  for (const int who : {0, 1, 2}) {
    const std::string message = fail_with(who, Error(ExitCode::io_error, "the disk is on fire"));
    EXPECT_EQ(message, fmt::format("rank {}: the disk is on fire", who));
    EXPECT_EQ(tree_of(root()), before);
    EXPECT_FALSE(fs::exists(root() / "step-40.partial"));
  }
  save_by_ranks(root(), 40, Cut::flat, 3);
  Checkpoint checkpoint = Checkpoint::open(root() / "step-40");
  expect_whole(checkpoint);
}

TEST_F(CheckpointRanksTest, RanksMustSaveTheSameStep) {
  const auto errors = run_ranks(2, [&](CheckpointGroup& group) {
    save_state(root(), 20 + static_cast<uint64_t>(group.rank()), Cut::flat, group);
  });
  for (const std::exception_ptr& error : errors)
    expect_error(ExitCode::internal, {"step 20", "step 21"}, [&] { std::rethrow_exception(error); });
}

TEST_F(CheckpointRanksTest, WriteTalksToNobody) {
  struct Counting : CheckpointGroup {
    int calls = 0;
    int rank() const override { return 0; }
    int size() const override { return 1; }
    std::vector<std::string> gather(const std::string& mine) override {
      ++calls;
      return {mine};
    }
  } group;
  const State state = make_state(20);
  std::vector<std::vector<char>> kept;
  CheckpointSave save(root(), 20, tensors_of(state), slices_of(state, Cut::whole, 0, 1, kept), state_json(20), group);
  const int before = group.calls;
  std::thread([&] { save.write(); }).join();
  EXPECT_EQ(group.calls, before);
  EXPECT_TRUE(find_checkpoints(root()).empty());
  save.commit(2);
  EXPECT_EQ(find_checkpoints(root()).size(), 1u);
}

TEST_F(CheckpointRanksTest, StateMustBeAnObject) {
  LoneGroup alone;
  for (const char* text : {"", "[]", "{\"a\":1,\"a\":2}", "{", "null"})
    EXPECT_THROW(save_checkpoint(root(), 20, {}, {}, text, alone, 2), Error) << text;
  EXPECT_FALSE(fs::exists(root()));
}

TEST_F(CheckpointRanksTest, ACommunicatorIsAGroup) {
  const auto self = self_communicator();
  CommunicatorGroup group(*self);
  save_state(root(), 20, Cut::whole, group);
  Checkpoint checkpoint = Checkpoint::open(root() / "step-20");
  expect_whole(checkpoint);
}

}  // namespace
}  // namespace capstan::testing
