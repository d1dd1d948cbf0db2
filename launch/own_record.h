#pragma once
// The record that a run keeps of itself when no sweep does: one row in the table run.records (records.h5 in the run
// directory), made from what the run left there. The key is the run's name and its steps, so that a run started again
// after its end adds nothing, and one that was given more steps adds a row. A table is replaced whole, so a crash
// leaves the old rows; a run that ended without its row gets it when the same command is given again.

#include <string>

#include "core/config/run_config.h"
#include "launch/console.h"

namespace capstan {

/// `failure`: why the run did not get to its end; empty where it did. Called by one rank. What goes wrong here is said,
/// not thrown: the run itself is through.
void keep_own_record(const RunConfig& config, const std::string& failure, Console& console);

}  // namespace capstan
