// label: cpu
// A checkpoint that was trained with another tokenizer than the corpus has: train, generate and evaluate refuse it, and
// train leaves it as it is. The checkpoint is a real one, saved again with another hash in its state.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/save.h"
#include "launch/command_line.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class WrongTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 2000; ++i) text << "word" << i * 7919 % 1000 << (i % 20 == 19 ? ".\n" : " ");
    text.close();
    std::ofstream(folder_ / "run.toml") << "[model]\nlayers = 1\nwidth = 16\nheads = 2\ncontext = 16\n"
                                        << "[train]\nsteps = 2\nglobal_batch = 2\nthreads = 1\nevaluate_samples = 2\n"
                                        << "[schedule]\nwarmup_steps = 1\n";
    ASSERT_EQ(run({"corpus", "build", "--out", at("corpus"), "--tokenizer", "bytes", at("text.txt")}), 0) << said_;
    ASSERT_EQ(train("run"), 0) << said_;
  }

  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  int run(std::vector<std::string> words) {
    words.insert(words.begin(), "capstan");
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    std::ostringstream out, err;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();  // where ranks complain
    const int code = run_command_line(static_cast<int>(argv.size()), argv.data(), out, err);
    std::fflush(stdout);
    said_ = testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr() + out.str() + err.str();
    return code;
  }
  int train(const std::string& name) {
    return run({"train", at("run.toml"), "data.corpora=" + at("corpus"), "run.dir=" + at(name)});
  }

  /// Saves the checkpoint of run `from` as one of run `to`, with `hash` for the tokenizer's.
  void save_with_tokenizer(const std::string& from, const std::string& to, const std::string& hash) {
    Checkpoint checkpoint = Checkpoint::open(fs::path(at(from)) / "checkpoints" / "step-2");
    std::string state = checkpoint.state();
    const std::string key = "\"tokenizer\":\"";
    const size_t begin = state.find(key) + key.size();
    ASSERT_NE(state.find(key), std::string::npos);
    state.replace(begin, state.find('"', begin) - begin, hash);
    std::vector<std::vector<char>> data;
    std::vector<Slice> slices;
    for (const LogicalTensor& tensor : checkpoint.tensors()) {
      const auto count = elements_of(tensor);
      data.emplace_back(count * bytes_of(tensor.dtype));
      checkpoint.read(tensor.name, 0, count, data.back().data());
      slices.push_back({tensor.name, 0, count, data.back().data()});
    }
    LoneGroup alone;
    save_checkpoint(fs::path(at(to)) / "checkpoints", 2, checkpoint.tensors(), slices, state, alone, 2);
  }

  static std::string bytes_in(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const support::TemporaryDirectory folder_;
  std::string said_;
};

TEST_F(WrongTokenizer, TheRightOneIsTaken) {
  const Checkpoint checkpoint = Checkpoint::open(fs::path(at("run")) / "checkpoints" / "step-2");
  const std::string key = "\"tokenizer\":\"";
  const size_t begin = checkpoint.state().find(key) + key.size();
  save_with_tokenizer("run", "copy", checkpoint.state().substr(begin, checkpoint.state().find('"', begin) - begin));
  EXPECT_EQ(train("copy"), 0) << said_;
  EXPECT_EQ(run({"evaluate", "--run", at("copy")}), 0) << said_;
}

TEST_F(WrongTokenizer, IsRefused) {
  const std::string other = "0123456789abcdef0123456789abcdef";
  save_with_tokenizer("run", "other", other);
  const fs::path manifest = fs::path(at("other")) / "checkpoints" / "step-2" / "manifest.json";
  const std::string before = bytes_in(manifest);
  EXPECT_EQ(train("other"), static_cast<int>(ExitCode::config));
  EXPECT_THAT(said_, AllOf(HasSubstr("another tokenizer"), HasSubstr(other), HasSubstr("another run.dir")));
  for (const char* verb : {"generate", "evaluate"}) {
    EXPECT_EQ(run({verb, "--run", at("other")}), static_cast<int>(ExitCode::config)) << verb;
    EXPECT_THAT(said_, AllOf(HasSubstr("tokenizer"), HasSubstr(other))) << verb;
  }
  EXPECT_EQ(bytes_in(manifest), before);
}

}  // namespace
}  // namespace capstan
