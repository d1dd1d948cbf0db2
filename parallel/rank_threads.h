#pragma once
// Runs a function on several ranks that are threads of this process. It is how distributed code is tested without a
// launcher: a rank that throws ends the others' waits (they throw "rank k failed: message"), the first failure is what
// the caller sees, and a hang in the group becomes an Error that says in which call each rank stands.
// Rule: a rank may wait for others only through its Communicator; only there can a failure reach it.

#include <functional>

#include "core/communicator.h"

namespace capstan {

struct RankThreadOptions {
  double hang_seconds = 60;  ///< the longest a rank may wait for another
  int omp_threads = 1;       ///< per rank; 0 leaves OpenMP's own setting
};

/// Calls body(communicator) on `ranks` threads and returns when all have ended; rethrows the first failure.
void run_rank_threads(int ranks, const std::function<void(Communicator&)>& body, RankThreadOptions options = {});

}  // namespace capstan
