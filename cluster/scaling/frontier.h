#pragma once
// The two ways to an optimal size that assume no law of the loss (Hoffmann et al. 2022): approach 2 fits a parabola of
// the loss in ln N within each budget and takes its minimum; approach 1 takes, at each C, the run with the least loss
// among training curves. Both then draw N* = k C^a and D* = k' C^b through what they found.
// A minimum at the edge of what was tried is not a minimum: such budgets are left out, with the reason.

#include "cluster/scaling/bootstrap.h"
#include "cluster/scaling/measurements.h"

namespace capstan::scaling {

/// y = coefficient x^exponent, a straight line in logarithms.
struct PowerLaw {
  double ln_coefficient = 0, exponent = 0;
  double at(double x) const;
};
PowerLaw power_law_through(const std::vector<double>& x, const std::vector<double>& y);

struct BudgetOptimum {
  double flops = 0;
  size_t rows = 0;
  double n = 0, d = 0, loss = 0;
  double half_width = 0;  ///< ln N on either side of N* at which the loss is 1% above its minimum
  double rms_error = 0;   ///< of the parabola, relative to the loss
  bool used = false;
  std::string reason;  ///< why not, where not used
};

struct Frontier {
  std::vector<BudgetOptimum> budgets;  ///< isoflop: one a budget; envelope: one a size that won somewhere
  size_t points = 0;                   ///< through which the power laws go
  PowerLaw n, d, loss;                 ///< of C
  std::vector<PowerLaw> n_replicates, d_replicates, loss_replicates;
  size_t failed_replicates = 0;
};

/// Rows whose C differ by less than `tolerance` (a factor, 1.1 say) are one budget. Throws Error bad_data where fewer
/// than two budgets are usable; the message has every budget's reason.
Frontier isoflop_frontier(const Measurements& table, double tolerance, size_t replicates, uint64_t seed, int threads,
                          const Progress& progress = {});

/// Curves are runs measured several times, or else the runs of one size.
Frontier envelope_frontier(const Measurements& table, size_t replicates, uint64_t seed, int threads,
                           const Progress& progress = {});

}  // namespace capstan::scaling
