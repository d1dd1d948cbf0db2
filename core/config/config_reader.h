#pragma once
// Reads a RunConfig from TOML text and key=value overrides. Order of strength: defaults, then the preset, then the
// file, then the overrides from first to last. Every mistake is found before anything is thrown, and the one
// Error(config) lists them with file:line:column, what was wanted, what was got and the nearest known name. A file is
// hostile: its size is limited, and its text is escaped before it is shown.

#include <string>
#include <string_view>
#include <vector>

#include "core/config/run_config.h"

namespace capstan {

inline constexpr size_t kLargestConfigFile = size_t{1} << 20;

/// `file_name` is for messages only.
RunConfig parse_run_config(std::string_view text, const std::string& file_name,
                           const std::vector<std::string>& overrides = {});

/// What a run directory's record of its config and its checkpoints are called.
inline constexpr const char* kRunConfigName = "config.toml";
inline constexpr const char* kRunCheckpointsName = "checkpoints";

/// Error(missing_input) when there is no such file. A config.toml beside checkpoints/ is a run's own: run.dir is then
/// the directory it lies in, whatever it says, unless an override names another. An empty run.dir becomes runs/<name of
/// the file>.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides = {});

/// For what must be known before mistakes can be told: they are passed over, their keys keep the defaults, and so does
/// everything that a file says that is not there or not TOML. Throws no Error; the config may hold conflicts.
RunConfig readable_run_config(const std::string& path, const std::vector<std::string>& overrides = {});

}  // namespace capstan
