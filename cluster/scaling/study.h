#pragma once
// All that `capstan fit` finds out about a table, in one structure that the text report, the JSON file and later pages
// are made from: the fit and its certificate, intervals on constants and on decisions, the back-test, the comparison
// with approach 2, and the warnings that a reader should see before the numbers.

#include "cluster/scaling/decision.h"
#include "cluster/scaling/frontier.h"
#include "cluster/scaling/profile.h"

namespace capstan::scaling {

struct StudyOptions {
  Form form = Form::chinchilla;
  Residual residual;
  FormOptions law;
  size_t replicates = 1000;
  uint64_t seed = 1;
  int threads = 0;
  bool profiles = true, backtest = true;
  std::vector<double> budgets;  ///< FLOP at which decisions are wanted
  Limits limits;
  double same_budget = 1.1;  ///< rows whose C differ by less than this factor share a budget
};

/// A number with what is known of it. Intervals are absent where they were not asked for or make no sense.
struct Estimate {
  std::string name;
  double value = 0;
  std::optional<Intervals> bootstrap, profile;
};

struct BudgetDecision {
  double flops = 0, beyond_data = 1;  ///< times the largest C in the table
  std::optional<Estimate> n, d;       ///< absent for forms that cannot split a budget
  Estimate loss;
};

struct Backtest {
  bool done = false;
  std::string reason;  ///< why not
  size_t held_out = 0;
  double least_flops = 0, most_flops = 0, reach = 0;  ///< reach: largest C over the largest fitted on
  double mean_error = 0, worst_error = 0;             ///< of ln(loss), signed: predicted - measured
  double best_measured = 0, best_predicted = 0;       ///< at the run of least loss among those left out
};

struct Study {
  StudyOptions options;
  size_t rows = 0, runs = 0;
  double least_n = 0, most_n = 0, least_d = 0, most_d = 0, least_c = 0, most_c = 0, least_loss = 0, most_loss = 0;
  bool exact_cost = false;           ///< the FLOP column is not 6 N D and decisions follow it
  std::optional<Noise> noise;        ///< where cells were measured more than once
  std::optional<Fit> fit;            ///< for laws
  std::optional<Frontier> frontier;  ///< for isoflop and envelope; for laws the approach 2 comparison where possible
  std::string no_frontier;           ///< why a law has no comparison
  std::vector<Estimate> constants;
  std::vector<Estimate> exponents;  ///< a and b of N* ~ C^a, D* ~ C^b where the form has them
  size_t replicates_used = 0, replicates_unidentifiable = 0, replicates_unconverged = 0;
  std::vector<BudgetDecision> decisions;
  Backtest backtest;
  std::vector<std::string> warnings;
  bool converged = true;
};

/// Progress is told by name of the stage.
using StageProgress = std::function<void(const std::string& stage, size_t done, size_t total)>;

/// Refusals are Errors (bad_data); a law that did not converge is a Study with converged false and nothing but the fit.
Study run_study(const Measurements& table, const StudyOptions& options, const StageProgress& progress = {});

}  // namespace capstan::scaling
