#pragma once
// What the ranks of a run left in its flight directory, as one table: where each of them stands, or stood when it was
// killed. Reads files only, so it works while the job hangs and long after it is gone.

#include <string>

namespace capstan {

/// Throws Error(missing_input) when the run has no records.
std::string flight_report(const std::string& run_directory);

}  // namespace capstan
