// label: cpu
// metrics.jsonl: digits, torn lines, going back to a step.
#include "io/run_log.h"

#include <cmath>
#include <limits>

#include "io/json_events.h"
#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {
namespace {

class RunLogTest : public ::testing::Test {
 protected:
  fs::path path() const { return directory_.path() / "metrics.jsonl"; }
  std::string lines(uint64_t first, uint64_t last) const {
    std::string text;
    for (uint64_t step = first; step <= last; ++step)
      text += metrics_text({{"step", step}, {"loss", 1.0 / static_cast<double>(step)}}) + "\n";
    return text;
  }
  TemporaryDirectory directory_;
};

TEST_F(RunLogTest, OneLineAStepInTheOrderGiven) {
  RunLog log(path());
  log.append({{"step", uint64_t{1}}, {"loss", 2.5}, {"a", int64_t{-3}}, {"note", "x \"y\"\n"}});
  log.append({{"step", uint64_t{2}}, {"loss", std::nan("")}, {"norm", -std::numeric_limits<double>::infinity()}});
  log.sync();
  EXPECT_EQ(
      read_file(path()),
      "{\"step\":1,\"loss\":2.5,\"a\":-3,\"note\":\"x \\\"y\\\"\\u000a\"}\n{\"step\":2,\"loss\":null,\"norm\":null}\n");
}

TEST_F(RunLogTest, EqualTextMeansEqualBits) {
  uint64_t x = 88172645463325252ull;
  std::vector<double> values = {0.0, -0.0, 1.0, 1e300, 5e-324, 0.1, 1e22, 1e-7, 123456789.0};
  for (int i = 0; i < 3000; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    double value;
    std::memcpy(&value, &x, sizeof value);
    if (std::isfinite(value)) values.push_back(value);
  }
  {
    RunLog log(path());
    for (const double value : values) log.append({{"loss", value}});
  }
  const Metrics metrics = read_metrics(path());
  ASSERT_EQ(metrics.lines, values.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(metrics.columns.at("loss")[i], values[i]) << i;
}

TEST_F(RunLogTest, ColumnsWithHoles) {
  write_file(
      path(),
      "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":null,\"validation_loss\":2}\n{\"step\":3,\"t\":\"x\"}\n{\"st");
  const Metrics metrics = read_metrics(path());
  EXPECT_EQ(metrics.lines, 3u);
  EXPECT_EQ(metrics.columns.at("step"), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(metrics.columns.at("loss")[0], 3);
  EXPECT_TRUE(std::isnan(metrics.columns.at("loss")[1]) && std::isnan(metrics.columns.at("loss")[2]));
  EXPECT_TRUE(std::isnan(metrics.columns.at("validation_loss")[0]));
  EXPECT_EQ(metrics.columns.at("validation_loss")[1], 2);
  EXPECT_EQ(metrics.columns.count("t"), 0u);
}

TEST_F(RunLogTest, BadFilesAreRefusedByLine) {
  expect_error(ExitCode::missing_input, {"metrics.jsonl"}, [&] { read_metrics(path()); });
  for (const char* line : {"nonsense", "[1]", "{\"a\":1,\"a\":2}", "{\"a\":[1]}", "{\"a\":true}"}) {
    write_file(path(), std::string("{\"step\":1}\n") + line + "\n");
    expect_error(ExitCode::bad_data, {"metrics.jsonl:2"}, [&] { read_metrics(path()); });
  }
}

TEST_F(RunLogTest, ResumeMovesLaterLines) {
  write_file(path(), lines(1, 30));
  EXPECT_EQ(RunLog::resume(path(), 20), 10u);
  EXPECT_EQ(read_file(path()), lines(1, 20));
  EXPECT_EQ(read_file(directory_.path() / "metrics.1.jsonl"), lines(21, 30));
  RunLog(path()).append({{"step", uint64_t{21}}, {"loss", 1.0 / 21}});
  EXPECT_EQ(read_file(path()), lines(1, 21));
  EXPECT_EQ(RunLog::resume(path(), 0), 21u);
  EXPECT_EQ(read_file(path()), "");
  EXPECT_EQ(read_file(directory_.path() / "metrics.2.jsonl"), lines(1, 21));
  EXPECT_EQ(read_file(directory_.path() / "metrics.1.jsonl"), lines(21, 30));
}

TEST_F(RunLogTest, ResumeDropsATornLine) {
  write_file(path(), lines(1, 20) + "{\"step\":21,\"lo");
  EXPECT_EQ(RunLog::resume(path(), 20), 0u);
  EXPECT_EQ(read_file(path()), lines(1, 20));
  EXPECT_FALSE(fs::exists(directory_.path() / "metrics.1.jsonl"));
}

TEST_F(RunLogTest, ResumeMovesSpoiledLinesToo) {
  write_file(path(), lines(1, 5) + std::string(40, '\0') + "\n" + lines(6, 7) + "{\"step\":");
  EXPECT_EQ(RunLog::resume(path(), 6), 2u);
  EXPECT_EQ(read_file(path()), lines(1, 6));
  EXPECT_EQ(read_metrics(path()).lines, 6u);
}

TEST_F(RunLogTest, ResumeLeavesAGoodFileAlone) {
  EXPECT_EQ(RunLog::resume(path(), 20), 0u);
  EXPECT_FALSE(fs::exists(path()));
  write_file(path(), lines(1, 20));
  const auto before = fs::last_write_time(path());
  EXPECT_EQ(RunLog::resume(path(), 20), 0u);
  EXPECT_EQ(fs::last_write_time(path()), before);
  EXPECT_EQ(read_file(path()), lines(1, 20));
}

TEST_F(RunLogTest, CannotOpen) {
  expect_error(ExitCode::cannot_create, {"metrics.jsonl"}, [&] { RunLog(directory_.path() / "no" / "metrics.jsonl"); });
}

}  // namespace
}  // namespace capstan::testing
