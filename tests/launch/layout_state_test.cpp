// label: ranks
// A checkpoint has no layout: written under one it loads under any other and is then, merged, the same bytes; and
// training goes on as if nothing had happened.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "launch/program_state.h"
#include "parallel/rank_threads.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;
using testing::Step;
using testing::tiny_llama;
using testing::tiny_spec;
using testing::TinyTraining;

struct Layout {
  int tp, dp;
  bool sequence_parallel;
  int zero = 0, pp = 1, replicas = 1;  ///< dp counts the ranks of all replicas
};

class LayoutState : public ::testing::Test {
 protected:
  /// Trains steps first .. last; begins from `from` when it is not empty, leaves a checkpoint in `to`.
  std::vector<Step> train(const Layout& layout, int first, int last, const fs::path& from, const fs::path& to) {
    TrainingSpec spec = tiny_spec(tiny_llama());
    spec.sequence_parallel = layout.sequence_parallel;
    spec.zero = layout.zero;
    spec.microbatch = 4 / layout.dp;
    spec.model.layers = 4;
    std::vector<Step> steps;
    run_rank_threads(layout.tp * layout.dp * layout.pp, [&](Communicator& world) {
      TinyTraining training(spec, backend_, world, layout.tp, layout.pp, 1, layout.replicas);
      if (!from.empty()) {
        Checkpoint checkpoint = Checkpoint::open(from);
        load_state(training.training(), checkpoint);
        training.training().set_updates(first);
      }
      std::vector<Step> mine;
      for (int i = first; i < last; ++i) mine.push_back(training.step(i));
      CommunicatorGroup group(world);
      StateSlices state = state_slices(training.training());
      save_checkpoint(to, static_cast<uint64_t>(last), std::move(state.tensors), std::move(state.slices), "{}", group,
                      2);
      if (world.rank() == 0) steps = mine;
    });
    return steps;
  }
  /// All bytes of the checkpoint as one rank would have written it.
  std::map<std::string, std::string> merged(const fs::path& checkpoint, const std::string& name) {
    Checkpoint from = Checkpoint::open(checkpoint);
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(merge_checkpoint(from, directory_ / name).path)) {
      if (!entry.is_regular_file()) continue;
      std::stringstream text;
      text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
      files[entry.path().filename().string()] = text.str();
    }
    return files;
  }

  kernels::Backend backend_ = kernels::reference_backend();
  const support::TemporaryDirectory directory_;
};

TEST_F(LayoutState, LoadsUnderAnyOtherAndSavesTheSameBytes) {
  const std::vector<std::pair<Layout, Layout>> pairs{{{1, 1, false}, {4, 1, true}},
                                                     {{2, 2, true}, {1, 4, false}},
                                                     {{4, 1, false}, {2, 1, true}},
                                                     {{2, 1, true}, {1, 1, false}},
                                                     {{1, 2, false}, {2, 2, false}},
                                                     {{4, 2, true}, {4, 1, false}},
                                                     {{1, 4, false, 1}, {1, 1, false}},
                                                     {{2, 2, true, 1}, {1, 2, false, 1}},
                                                     {{1, 1, false}, {4, 2, true, 1}},
                                                     {{2, 2, true, 3}, {1, 1, false}},
                                                     {{1, 1, false, 0, 4}, {2, 2, true, 2}},
                                                     {{2, 2, true, 3, 2}, {1, 4, false, 3}},
                                                     {{1, 4, false, 2}, {4, 1, false, 0, 2}},
                                                     {{1, 4, false, 3, 1, 2}, {1, 1, false}},
                                                     {{1, 4, false, 3}, {2, 4, true, 2, 1, 2}},
                                                     {{2, 4, true, 1, 1, 2}, {1, 4, false, 3, 1, 4}}};
  for (size_t i = 0; i < pairs.size(); ++i) {
    const std::string tag = std::to_string(i);
    const auto& [before, after] = pairs[i];
    train(before, 0, 2, {}, directory_ / ("a" + tag));
    const fs::path first = directory_ / ("a" + tag) / checkpoint_name(2);
    train(after, 2, 2, first, directory_ / ("b" + tag));
    const auto a = merged(first, "ma" + tag), b = merged(directory_ / ("b" + tag) / checkpoint_name(2), "mb" + tag);
    EXPECT_GE(a.size(), 2u);
    EXPECT_TRUE(a == b) << "pair " << i;
  }
}

TEST_F(LayoutState, TrainingGoesOnUnderAnotherLayout) {
  const std::vector<Step> whole = train({1, 1, false}, 0, 6, {}, directory_ / "whole");
  std::vector<Step> parts = train({2, 2, true}, 0, 2, {}, directory_ / "p0");
  const auto go_on = [&](const Layout& layout, int first, int last, const char* from, const char* to) {
    for (const Step& step :
         train(layout, first, last, directory_ / from / checkpoint_name(static_cast<uint64_t>(first)), directory_ / to))
      parts.push_back(step);
  };
  go_on({1, 4, false, 3}, 2, 3, "p0", "p0b");
  go_on({1, 4, false, 3, 1, 2}, 3, 4, "p0b", "p1");
  go_on({2, 1, true, 0, 2}, 4, 6, "p1", "p2");
  ASSERT_EQ(parts.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(parts[i].loss, whole[i].loss, 1e-11 * whole[i].loss) << i;
}

/// Parameters alone, read in another dtype, as evaluate and generate do.
TEST_F(LayoutState, ParametersAloneLoadUnderAnyLayout) {
  train({2, 1, true, 0, 2}, 0, 1, {}, directory_ / "a");
  run_rank_threads(4, [&](Communicator& world) {
    DecoderConfig model = tiny_llama();
    model.layers = 4;
    TinyTraining training(tiny_spec(model, Precision::fp32), backend_, world, 4),
        same(tiny_spec(model), backend_, world, 4);
    Checkpoint checkpoint = Checkpoint::open(directory_ / "a" / checkpoint_name(1));
    load_parameters(training.program(), DType::f32, checkpoint);
    load_state(same.training(), checkpoint);
    const std::vector<float> narrow = training.values<float>("layers.1.mlp.down.weight");
    const std::vector<double> wide = same.values<double>("layers.1.mlp.down.weight");
    ASSERT_EQ(narrow.size(), wide.size());
    for (size_t i = 0; i < wide.size(); ++i) EXPECT_EQ(narrow[i], static_cast<float>(wide[i])) << i;
  });
}

}  // namespace
}  // namespace capstan
