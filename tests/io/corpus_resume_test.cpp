// label: cpu
// A build that was killed and is run again: it finishes with the same bytes, goes on from finished shards, checks them
// before it trusts them, and begins anew when something else is asked for. Killed by kill -9 at random moments.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "io/corpus/build_journal.h"
#include "io/corpus/metadata_file.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

constexpr uint64_t kShardTokens = 60000;

CorpusBuildOptions options_of(const fs::path& out, const fs::path& input) {
  CorpusBuildOptions options;
  options.out = out;
  options.inputs = {input};
  options.shard_tokens = kShardTokens;
  options.drop_duplicates = true;
  options.documents.metadata = {"id"};
  options.threads = 4;
  return options;
}

// A child is this program started again; see corpus_kill_test.cpp.
[[maybe_unused]] const bool kChildIsDone = [] {
  const char *out = std::getenv("CAPSTAN_TEST_BUILD"), *input = std::getenv("CAPSTAN_TEST_INPUT");
  if (out && input)
    std::_Exit(static_cast<int>(outcome_of([&] { build_corpus(options_of(out, input), ByteTokenizer()); }).code));
  return true;
}();

pid_t start_child(const fs::path& out, const fs::path& input, const char* failpoints = "") {
  const pid_t child = fork();
  if (child != 0) return child;
  setenv("CAPSTAN_FAIL", failpoints, 1);
  setenv("CAPSTAN_TEST_BUILD", out.c_str(), 1);
  setenv("CAPSTAN_TEST_INPUT", input.c_str(), 1);
  execl("/proc/self/exe", "corpus_resume_test", nullptr);
  _exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

class CorpusResume : public testing::Test {
 protected:
  CorpusResume() {
    std::string lines;
    unsigned id = 0;
    for (const std::string& text : some_documents(5000, 8)) {
      std::string quoted;
      for (const char c : text) quoted += c == '\n' ? std::string("\\n") : std::string(1, c);
      lines += fmt::format("{{\"id\": {}, \"text\": \"{}\"}}\n", id++, quoted);
      if (id % 5 == 0) lines += lines.substr(lines.rfind("{\"id\""));
    }
    put(input(), lines);
    whole_ = build_corpus(options_of(directory_ / "whole", input()), ByteTokenizer());
    EXPECT_GT(whole_.manifest.train.shards.size(), 12u);
    EXPECT_GT(whole_.duplicates, 900u);
  }
  fs::path input() const { return directory_ / "d.jsonl"; }
  void expect_whole(const fs::path& out) const {
    size_t files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_ / "whole")) {
      EXPECT_TRUE(get(entry.path()) == get(out / entry.path().filename())) << entry.path();
      ++files;
    }
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(out)) --files;
    EXPECT_EQ(files, 0u) << "other files in " << out;
  }
  /// An unfinished build with some shards finished.
  fs::path interrupted(const std::string& name, int shards = 6) const {
    const fs::path out = directory_ / name;
    const std::string point = fmt::format("journal.append:{}:kill", shards + 1);
    EXPECT_EQ(WTERMSIG(wait_for(start_child(out, input(), point.c_str()))), SIGKILL);
    return out;
  }

  TemporaryDirectory directory_;
  CorpusBuildResult whole_;
};

TEST_F(CorpusResume, FinishedShardsAreTakenOver) {
  const fs::path out = interrupted("c");
  const auto before = fs::last_write_time(out / "train-00003.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const CorpusBuildResult result = build_corpus(options_of(out, input()), ByteTokenizer());
  EXPECT_EQ(result.reused_shards, 6u);
  EXPECT_EQ(result.started_anew, "");
  EXPECT_EQ(result.duplicates, whole_.duplicates);
  EXPECT_EQ(fs::last_write_time(out / "train-00003.h5"), before);
  expect_whole(out);
}

TEST_F(CorpusResume, ADamagedShardIsMadeAgain) {
  for (const char* name : {"train-00002.h5", "train-00002.metadata.jsonl.zst"}) {
    const fs::path out = interrupted(std::string("c-") + name);
    std::string bytes = get(out / name);
    bytes[bytes.size() / 2] ^= 1;
    put(out / name, bytes);
    const CorpusBuildResult result = build_corpus(options_of(out, input()), ByteTokenizer());
    EXPECT_EQ(result.reused_shards, 2u) << name;
    expect_whole(out);
  }
}

TEST_F(CorpusResume, ATornJournalLosesItsLastLineOnly) {
  const fs::path out = interrupted("c");
  const std::string journal = get(out / kBuildMarker);
  put(out / kBuildMarker, journal.substr(0, journal.size() - 9));
  EXPECT_EQ(build_corpus(options_of(out, input()), ByteTokenizer()).reused_shards, 5u);
  expect_whole(out);
  for (const size_t keep : {size_t{0}, size_t{1}, size_t{40}, size_t{200}}) {
    const fs::path other = interrupted(fmt::format("c{}", keep));
    put(other / kBuildMarker, get(other / kBuildMarker).substr(0, keep));
    EXPECT_EQ(build_corpus(options_of(other, input()), ByteTokenizer()).reused_shards, 0u);
    expect_whole(other);
  }
}

TEST_F(CorpusResume, AskingForSomethingElseBeginsAnewAndSaysWhy) {
  const std::pair<const char*, std::function<void(CorpusBuildOptions&)>> cases[] = {
      {"drop-duplicates", [](auto& o) { o.drop_duplicates = false; }},
      {"shard-tokens", [](auto& o) { o.shard_tokens += 1; }},
      {"keep-metadata", [](auto& o) { o.documents.metadata = {}; }},
      {"skip-bad", [](auto& o) { o.skip_bad = 1; }},
      {"threshold", [](auto& o) { o.validation = 0.2; }}};
  for (const auto& [word, change] : cases) {
    const fs::path out = interrupted(std::string("c-") + word);
    CorpusBuildOptions options = options_of(out, input());
    change(options);
    const CorpusBuildResult result = build_corpus(options, ByteTokenizer());
    EXPECT_EQ(result.reused_shards, 0u);
    EXPECT_NE(result.started_anew.find(word), std::string::npos) << result.started_anew;
    EXPECT_TRUE(verify_corpus(out, 3).empty());
  }
  const fs::path out = interrupted("c-input");
  put(input(), get(input()) + "{\"text\": \"more\"}\n");
  EXPECT_NE(build_corpus(options_of(out, input()), ByteTokenizer()).started_anew.find("d.jsonl"), std::string::npos);
}

TEST_F(CorpusResume, InputsThatChangedUnnoticedAreFound) {
  const fs::path out = interrupted("c");
  const auto time = fs::last_write_time(input());
  std::string changed = get(input());
  const size_t at = changed.find("\"text\": \"", changed.size() / 20) + 12;
  changed[at] = changed[at] == 'q' ? 'r' : 'q';
  put(input(), changed);
  fs::last_write_time(input(), time);  // same size, same time
  const Outcome outcome = outcome_of([&] { build_corpus(options_of(out, input()), ByteTokenizer()); });
  EXPECT_EQ(outcome.code, ExitCode::bad_data);
  EXPECT_TRUE(outcome.says("an input changed")) << outcome.message;
}

TEST_F(CorpusResume, KilledBetweenManifestAndEnd) {
  const fs::path out = directory_ / "c";
  fs::copy(directory_ / "whole", out);
  const fs::path half = interrupted("half");
  fs::copy_file(half / kBuildMarker, out / kBuildMarker);
  EXPECT_EQ(build_corpus(options_of(out, input()), ByteTokenizer()).manifest.digest, whole_.manifest.digest);
  expect_whole(out);
}

TEST_F(CorpusResume, KillNineAtRandomMoments) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto begin = now();
  ASSERT_EQ(wait_for(start_child(directory_ / "timed", input())), 0);
  double seconds = std::chrono::duration<double>(now() - begin).count();
  std::mt19937 random(std::random_device{}());
  size_t kills = 0, went_on = 0;
  for (int round = 0; round < 5 || (kills < 3 && round < 30); ++round) {
    const fs::path out = directory_ / fmt::format("c{}", round);
    for (int tries = 0; tries < 20; ++tries) {
      const double wait = seconds * static_cast<double>(random() % 1000) / 900.0;
      SCOPED_TRACE(fmt::format("round {}, killed after {:.4f} s", round, wait));
      const pid_t child = start_child(out, input());
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
      kill(child, SIGKILL);
      const int status = wait_for(child);
      if (WIFEXITED(status)) {
        EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 73) << WEXITSTATUS(status);
        seconds *= 0.8;  // the machine was slower when the build was timed
        break;
      }
      ++kills;
      if (fs::exists(out / kBuildMarker)) went_on += !BuildJournal(out / kBuildMarker).read(2, true).shards.empty();
    }
    if (fs::exists(out / kBuildMarker) || !fs::exists(out / kManifestName)) {
      EXPECT_EQ(outcome_of([&] { build_corpus(options_of(out, input()), ByteTokenizer()); }).message, "");
    }
    expect_whole(out);
  }
  EXPECT_GE(kills, 3u);
  RecordProperty("went_on", std::to_string(went_on));
}

}  // namespace
}  // namespace capstan
