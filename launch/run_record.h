#pragma once
// The record of a run, made from what the run itself left in its directory: config.toml, metrics.jsonl, data.json. It
// needs neither checkpoints nor the corpus, so that any finished run can be added to any table.

#include <filesystem>

#include "cluster/lab/record.h"
#include "core/config/run_config.h"

namespace capstan {

/// `known`: what the directory cannot say (name of the run, sweep, kind, parent, seconds); the rest is filled in.
/// Error missing_input or bad_data.
RunRecord record_of_run(const std::filesystem::path& directory, RunRecord known);

/// "capstan 0.1.0 binary 5f2c..."
std::string binary_version();

/// Fields that follow from the config alone; for runs that never got as far as a run directory.

void fill_from_config(RunRecord& record, const RunConfig& config);

}  // namespace capstan
