#pragma once
// Checks between keys: what no single row of the table can see. Each conflict names the keys it is about, so that the
// reader can say where they were written and stay silent when one of them is already known to be wrong.

#include <string>
#include <vector>

#include "core/config/run_config.h"

namespace capstan {

struct Conflict {
  std::vector<std::string> keys;  ///< the first is the one to change
  std::string message;
};

/// Everything that can be said without knowing the number of ranks; also what this version cannot do.
std::vector<Conflict> config_conflicts(const RunConfig& config);

/// Fills layout.dp and train.microbatch where they were left out; throws Error(config) with every conflict between the
/// layout, the batch and `world` ranks. Idempotent.
void check_for_world(RunConfig& config, int world);

/// What train needs beyond a valid config: corpora and a run directory.
void check_for_training(const RunConfig& config);

}  // namespace capstan
