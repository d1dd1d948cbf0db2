#pragma once
// How far a fit would move had other runs been drawn: whole runs (not rows: checkpoints of one run share its fate) are
// drawn anew and the law is fitted again, starting from the fit to all of them. What is kept is every replicate's
// parameters together, so that an interval on anything computed from them (an optimal size, a loss at a budget) is as
// easy as one on a constant, and correct about their correlations.
// Where most rows lie past the cost's kink (L1; Huber with a delta below the noise) the objective is nearly piecewise
// linear, and its resampled minima jump from row to row: 68% intervals then cover 77%. Replicates of such costs are
// fitted with the kink rounded over the width of a typical residual, and shifted by what the rounding does to the fit
// to all runs (the smoothed bootstrap for least absolute deviations; Horowitz 1998).

#include <cstdint>

#include "cluster/scaling/fit.h"
#include "cluster/scaling/parallel_for.h"

namespace capstan::scaling {

struct Interval {
  double low = 0, high = 0;
};

struct Intervals {
  Interval p68, p95;
};
/// Between percentiles of the values, which need not be sorted.
Intervals percentile_intervals(std::vector<double> values);

struct Bootstrap {
  size_t asked = 0;
  bool smoothed = false;      ///< the cost's kink was rounded
  size_t unidentifiable = 0;  ///< drew fewer than two distinct N or D
  size_t unconverged = 0;
  std::vector<Vector> replicates;  ///< coordinates, in the order of their numbers
};

/// The cost that replicates are fitted with.
Residual replicate_cost(const Fit& fit);

/// The same bits for the same seed, whatever the number of threads.
Bootstrap bootstrap(const Fit& fit, const Measurements& table, size_t count, uint64_t seed, int threads,
                    const Progress& progress = {});

}  // namespace capstan::scaling
