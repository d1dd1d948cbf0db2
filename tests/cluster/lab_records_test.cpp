// label: cpu
// The table of runs: what is written comes back, once, whole or not at all, and other programs can read it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "cluster/lab/record_store.h"
#include "cluster/lab/record_table.h"
#include "io/file_system.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class LabRecords : public testing::Test {
 protected:
  fs::path table() const { return folder_ / kStoreName; }
  const support::TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

RunRecord some_record(const std::string& run, double n = 1000, double d = 1e5) {
  RunRecord record;
  record.run = run, record.kind = "ladder", record.sweep = "s, \"quoted\"";
  record.n_total = static_cast<int64_t>(n), record.tokens = d, record.unique_tokens = d;
  record.flops_half = 6.5 * n * d, record.loss = 1.5 + 40 / std::sqrt(n) + 300 / std::sqrt(d), record.seed = 3;
  return record;
}

std::string complaint(const std::function<void()>& action) { return support::outcome_of(action).message; }

TEST_F(LabRecords, ComeBackAsTheyWere) {
  RunRecord record = some_record(
      "gr\xc3\xb6\xc3\x9f"
      "e-1");
  record.learning_rate = 0.1 + 0.2;
  record.finished_at = 1.7e9;
  RecordStore store(table());
  EXPECT_TRUE(store.read().empty());
  EXPECT_FALSE(fs::exists(table()));
  EXPECT_TRUE(store.append(record));
  const std::vector<RunRecord> found = store.read();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(record_json(found[0]), record_json(record));
  EXPECT_TRUE(std::isnan(found[0].noise_scale));
}

TEST_F(LabRecords, TheSameRunIsNeverWrittenTwice) {
  RecordStore store(table());
  RunRecord failed = some_record("a");
  failed.status = "failed", failed.reason = "killed by signal 9";
  EXPECT_TRUE(store.append(failed));
  EXPECT_FALSE(store.append(some_record("a")));
  EXPECT_TRUE(store.append(some_record("a"), true));
  EXPECT_FALSE(store.append(some_record("a", 5), true));  // done stays
  ASSERT_EQ(store.read().size(), 1u);
  EXPECT_TRUE(store.read()[0].done());
  EXPECT_EQ(store.read()[0].n_total, 1000);
}

TEST_F(LabRecords, ManyProcessesAppendAtOnce) {
  std::vector<pid_t> children;
  for (int p = 0; p < 4; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 10; ++i) RecordStore(table()).append(some_record("run-" + std::to_string((p * 5 + i) % 20)));
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::set<std::string> names;
  for (const RunRecord& record : RecordStore(table()).read()) EXPECT_TRUE(names.insert(record.run).second);
  EXPECT_EQ(names.size(), 20u);
}

TEST_F(LabRecords, AKilledAppendLeavesTheOldTableOrTheNew) {
  RecordStore(table()).append(some_record("first"));
  for (int round = 0; round < 20; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0;; ++i) RecordStore(table()).append(some_record(fmt::format("r{}-{}", round, i)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(3 + 2 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    std::set<std::string> names;
    for (const RunRecord& record : RecordStore(table()).read()) EXPECT_TRUE(names.insert(record.run).second);
    EXPECT_TRUE(names.contains("first"));
  }
}

TEST_F(LabRecords, AnyBytesEndInAnErrorOrATable) {
  std::vector<RunRecord> records;
  for (int i = 0; i < 3; ++i) records.push_back(some_record("run-" + std::to_string(i)));
  const std::string whole = store_image(records);
  EXPECT_EQ(records_of_image(whole, "t").size(), 3u);
  EXPECT_THAT(complaint([] { records_of_image("", "t.h5"); }), HasSubstr("t.h5"));
  EXPECT_THAT(complaint([] { records_of_image("not HDF5 at all", "t.h5"); }), HasSubstr("t.h5"));
  for (size_t cut = 0; cut < whole.size(); cut += 97)
    EXPECT_NE(complaint([&] { records_of_image(whole.substr(0, cut), "t.h5"); }), "");
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes = whole;
    for (int flips = 0; flips < 4; ++flips) bytes[random() % bytes.size()] ^= static_cast<char>(1u << random() % 8);
    if (bytes == whole) continue;
    EXPECT_NE(complaint([&] { records_of_image(bytes, "t.h5"); }), "");
  }
}

TEST_F(LabRecords, HostileTextIsRefused) {
  EXPECT_THAT(complaint([&] { RecordStore(table()).append(RunRecord{}); }), HasSubstr("without the name"));
  RunRecord record = some_record("a");
  record.reason = "two\nlines";
  EXPECT_THAT(complaint([&] { RecordStore(table()).append(record); }), HasSubstr("control characters"));
  record = some_record("a");
  record.status = "well";
  EXPECT_THAT(complaint([&] { RecordStore(table()).append(record); }), HasSubstr("status"));
}

TEST_F(LabRecords, BecomeMeasurements) {
  std::vector<RunRecord> records = {some_record("a"), some_record("b", 2000, 2e5), some_record("c", 3000)};
  records[1].kind = "search";
  records[2].status = "failed";
  const scaling::Measurements table = measurements_of(records, {}, "t");
  ASSERT_EQ(table.size(), 1u);
  EXPECT_EQ(table.parameters[0], 1000);
  EXPECT_EQ(table.flops[0], records[0].flops_half);
  const scaling::Csv csv = csv_of(records, "t");
  const scaling::Measurements again = scaling::measurements_from(csv, with_store_names({}), "t");
  EXPECT_EQ(again.loss, table.loss);
  EXPECT_EQ(again.flops, table.flops);
  EXPECT_THAT(complaint([&] { measurements_of({records[2]}, {}, "t"); }), HasSubstr("none of the 1 records"));
}

TEST_F(LabRecords, TheirCsvGivesTheLawOfTheStore) {
  std::vector<RunRecord> records = {some_record("a"), some_record("b", 2000, 2e5), some_record("c", 3000),
                                    some_record("d", 4000, 3e5)};
  records[1].kind = "held-out";
  records[2].status = "diverged", records[2].loss = RunRecord::kUnknown;
  const scaling::Csv written = scaling::parse_csv(records_csv(records), "t");
  ASSERT_TRUE(is_record_table(written));
  EXPECT_FALSE(is_record_table(scaling::parse_csv("run,n,tokens,loss\na,1,2,3\n", "t")));
  const scaling::Csv rows = fitted_rows(written, "t");
  ASSERT_TRUE(rows.rows == csv_of(records, "t").rows);
  EXPECT_EQ(rows.lines, (std::vector<size_t>{2, 5}));
  EXPECT_THAT(complaint([&] { fitted_rows(scaling::parse_csv(records_csv({records[2]}), "t"), "t"); }),
              HasSubstr("none of the 1 records"));
}

TEST_F(LabRecords, H5pyReadsThem) {
  RecordStore(table()).append(
      some_record("gr\xc3\xb6\xc3\x9f"
                  "e-1",
                  1234));
  RecordStore(table()).append(some_record("b", 77));
  const fs::path script = folder_ / "read.py";
  std::ofstream(script) << "import sys\n"
                           "try:\n    import h5py\nexcept ImportError:\n    sys.exit(77)\n"
                           "table = h5py.File(sys.argv[1], 'r')['records']\n"
                           "rows = table[:]\n"
                           "assert rows['run'][0].decode() == 'gr\\u00f6\\u00dfe-1', rows['run'][0]\n"
                           "assert list(rows['n_total']) == [1234, 77]\n"
                           "assert abs(rows['flops_half'][0] / (6.5 * 1234 * 1e5) - 1) < 1e-12\n"
                           "assert table.attrs['unit.tokens'] == b'tokens' or table.attrs['unit.tokens'] == 'tokens'\n"
                           "assert all('meaning.' + name in table.attrs for name in rows.dtype.names)\n";
  const int status = std::system(fmt::format("/usr/bin/python3 -B {} {}", script.string(), table().string()).c_str());
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "python3-h5py is not here";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace capstan
