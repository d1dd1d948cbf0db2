#pragma once
// Writes a RunConfig out: as the effective config of a run directory, as one canonical text that ranks compare, and as
// the list of what changed between a checkpoint's config and the one it is resumed with.

#include <string>
#include <vector>

#include "core/config/key.h"

namespace capstan {

/// TOML with every key, by section; reading it gives the same RunConfig.
std::string write_effective(const RunConfig& config);

/// "key = value" lines in table order; equal texts mean equal configs, bit for bit.
std::string canonical(const RunConfig& config);

struct ConfigDifference {
  std::string key;
  std::string before;  ///< as TOML
  std::string after;
  OnResume on_resume;
};
std::vector<ConfigDifference> resume_differences(const RunConfig& before, const RunConfig& after);

}  // namespace capstan
