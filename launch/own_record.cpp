#include "launch/own_record.h"

#include <algorithm>
#include <filesystem>

#include "cluster/lab/record_store.h"
#include "core/error.h"
#include "launch/run_record.h"

namespace capstan {
namespace {

namespace fs = std::filesystem;

/// "runs/books/" is called books.
std::string name_of_run(const fs::path& directory) {
  constexpr size_t kLongest = 64;
  const fs::path whole = fs::absolute(directory).lexically_normal();
  const std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  return name.substr(0, kLongest);
}

const RunRecord* find_record(const std::vector<RunRecord>& records, const std::string& key) {
  const auto found = std::find_if(records.begin(), records.end(), [&](const RunRecord& r) { return r.run == key; });
  return found == records.end() ? nullptr : &*found;
}

/// Adds the record unless it is there. Another run directory of the same name keeps its rows: this one gets a number.
void add_once(RecordStore& store, RunRecord record, const std::string& name) {
  for (int64_t number = 1;;) {
    record.run = fmt::format("{}{}@{}", name, number > 1 ? fmt::format("-{}", number) : "", record.steps);
    const std::vector<RunRecord> records = store.read();
    const RunRecord* there = find_record(records, record.run);
    if (there && there->directory != record.directory)
      ++number;
    else if ((there && (there->done() || !record.done())) || store.append(record, true))
      return;  // else somebody was quicker: look again
  }
}

RunRecord ended_record(const RunConfig& config, const fs::path& table, const std::string& failure) {
  RunRecord known;
  known.version = binary_version(), known.kind = "single";
  known.directory = fs::proximate(config.run.dir, table.parent_path()).string();
  known.run = name_of_run(config.run.dir);
  if (!failure.empty()) {
    known.status = "diverged", known.exit_code = static_cast<int64_t>(ExitCode::numerical), known.reason = failure;
    std::replace_if(
        known.reason.begin(), known.reason.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  }
  return record_of_run(config.run.dir, known);
}

}  // namespace

void keep_own_record(const RunConfig& config, const std::string& failure, Console& console) {
  if (config.run.records == "none") return;
  const fs::path table =
      fs::absolute(config.run.records.empty() ? fs::path(config.run.dir) / kStoreName : fs::path(config.run.records));
  try {
    RecordStore store(table);
    add_once(store, ended_record(config, table, failure), name_of_run(config.run.dir));
  } catch (const std::exception& error) {
    console.say(
        fmt::format("warning  the run is not in the table of records {} ({}); add it with: capstan records {} "
                    "--add {}",
                    table.string(), error.what(), table.string(), config.run.dir));
  }
}

}  // namespace capstan
