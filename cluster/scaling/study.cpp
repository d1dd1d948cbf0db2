#include "cluster/scaling/study.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace capstan::scaling {
namespace {

bool is_frontier(Form form) { return form == Form::isoflop || form == Form::envelope; }

Progress named(const StageProgress& progress, const std::string& stage) {
  if (!progress) return {};
  return [&progress, stage](size_t done, size_t total) { progress(stage, done, total); };
}

template <class Function>
Intervals over_replicates(const std::vector<Vector>& replicates, const Function& function) {
  std::vector<double> values;
  for (const Vector& theta : replicates) {
    const double value = function(theta);
    if (!std::isnan(value)) values.push_back(value);
  }
  return percentile_intervals(std::move(values));
}

Intervals exponentiated(Intervals i) {
  for (Interval* interval : {&i.p68, &i.p95}) *interval = {std::exp(interval->low), std::exp(interval->high)};
  return i;
}

void describe(const Measurements& table, Study& study) {
  const auto range = [](const std::vector<double>& values, double& least, double& most) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    least = *low;
    most = *high;
  };
  study.rows = table.size();
  study.runs = static_cast<size_t>(table.runs());
  range(table.parameters, study.least_n, study.most_n);
  range(table.tokens, study.least_d, study.most_d);
  range(table.flops, study.least_c, study.most_c);
  range(table.loss, study.least_loss, study.most_loss);
  const Noise noise = replicate_noise(table);
  if (noise.degrees > 0) study.noise = noise;
}

Backtest backtest(const Measurements& table, const StudyOptions& options) {
  Backtest out;
  const Form form = options.form;
  const std::vector<double>& key = form == Form::kaplan_n   ? table.parameters
                                   : form == Form::kaplan_d ? table.tokens
                                                            : table.flops;
  const double most = *std::max_element(key.begin(), key.end());
  // Whole budgets from the top, until a twentieth of the rows is out: one row says little.
  std::vector<size_t> kept, left_out;
  for (std::vector<std::vector<size_t>> budgets = groups_of(key, options.same_budget); !budgets.empty();) {
    std::vector<size_t>& to = left_out.size() * 20 < table.size() ? left_out : kept;
    to.insert(to.end(), budgets.back().begin(), budgets.back().end());
    budgets.pop_back();
  }
  std::sort(kept.begin(), kept.end());
  std::sort(left_out.begin(), left_out.end());
  double most_kept = 0;
  for (const size_t i : kept) most_kept = std::max(most_kept, key[i]);
  out.held_out = left_out.size();
  try {
    const Measurements rest = rows_of(table, kept), held = rows_of(table, left_out);
    if (kept.empty()) throw Error::make(ExitCode::bad_data, "every row belongs to the largest budget");
    const Fit fit = fit_law(form, rest, options.residual, options.law);
    if (!fit.certificate.converged) {
      out.reason = "the fit without the largest budget did not converge: " + fit.certificate.reason;
      return out;
    }
    const std::vector<Place> places = places_of(held);
    double worst = 0, least = kInfinity;
    for (size_t i = 0; i < held.size(); ++i) {
      const double predicted = fit.model->log_loss(places[i], fit.theta, nullptr, nullptr);
      const double error = predicted - std::log(held.loss[i]);
      out.mean_error += error / static_cast<double>(held.size());
      if (std::abs(error) > std::abs(worst)) worst = error;
      if (held.loss[i] >= least) continue;
      least = out.best_measured = held.loss[i];
      out.best_predicted = std::exp(predicted);
    }
    out.worst_error = worst;
    out.least_flops = *std::min_element(held.flops.begin(), held.flops.end());
    out.most_flops = *std::max_element(held.flops.begin(), held.flops.end());
    out.reach = most / most_kept;
    out.done = true;
  } catch (const Error& refusal) {
    out.reason = fmt::format("without the largest budget ({} rows) the rest cannot be fitted: {}", left_out.size(),
                             refusal.what());
  }
  return out;
}

/// Constants, exponents of the frontier and decisions of a fitted law, with their intervals.
class LawEstimates {
 public:
  LawEstimates(const Measurements& table, Study& study, const StageProgress& progress)
      : table_(table), study_(study), fit_(*study.fit), progress_(progress), cost_(table) {
    study.exact_cost = !cost_.is_6nd();
  }

  void resample() {
    const StudyOptions& o = study_.options;
    if (o.replicates == 0) return;
    const Bootstrap drawn = bootstrap(fit_, table_, o.replicates, o.seed, o.threads, named(progress_, "bootstrap"));
    replicates_ = drawn.replicates;
    study_.replicates_used = drawn.replicates.size();
    study_.replicates_unidentifiable = drawn.unidentifiable;
    study_.replicates_unconverged = drawn.unconverged;
  }

  void constants() {
    for (int i = 0; i < fit_.model->size(); ++i) {
      Estimate out{fit_.model->names()[i], fit_.constants[i], {}, {}};
      if (natural_fixed(i)) {
        study_.constants.push_back(out);
        continue;
      }
      const auto value = [&, i](const Vector& theta) { return fit_.model->natural(theta)[i]; };
      if (!replicates_.empty()) out.bootstrap = over_replicates(replicates_, value);
      out.profile = profiled(value, i == fit_.model->irreducible());
      study_.constants.push_back(out);
      told("profiles", ++profiled_, fit_.model->size());
    }
  }

  /// N* ~ C^a with a = beta / (alpha + beta), where the cost is 6 N D.
  void exponents() {
    const Form form = study_.options.form;
    if (form != Form::chinchilla && form != Form::repetition) return;
    for (const bool of_n : {true, false}) {
      const auto value = [&, of_n](const Vector& theta) {
        const std::vector<double> v = fit_.model->natural(theta);
        const double alpha = v[3], beta = v.size() > 4 ? v[4] : v[3];
        return (of_n ? beta : alpha) / (alpha + beta);
      };
      Estimate out{of_n ? "a (N* ~ C^a)" : "b (D* ~ C^b)", value(fit_.theta), {}, {}};
      if (!replicates_.empty()) out.bootstrap = over_replicates(replicates_, value);
      if (!study_.options.law.tie_exponents) out.profile = profiled(value, true);
      study_.exponents.push_back(out);
    }
  }

  void decisions() {
    const StudyOptions& o = study_.options;
    if (!can_predict_from_budget(o.form)) return;
    for (const double budget : o.budgets) {
      BudgetDecision out;
      out.flops = budget;
      out.beyond_data = budget / study_.most_c;
      out.loss = decided("loss", budget, [](const Decision& d) { return d.loss; });
      if (can_allocate(o.form)) {
        out.n = decided("N*", budget, [](const Decision& d) { return d.n; });
        out.d = decided("D*", budget, [](const Decision& d) { return d.d; });
      }
      study_.decisions.push_back(out);
    }
  }

 private:
  void told(const std::string& stage, size_t done, size_t total) const {
    if (progress_) progress_(stage, done, total);
  }

  bool natural_fixed(int i) const {
    for (const Constant& constant : study_.options.law.fixed)
      if (constant.name == fit_.model->names()[i]) return true;
    return false;
  }

  /// Profiles run on the logarithm of what is a scale, on the number itself where it may be zero.
  std::optional<Intervals> profiled(const std::function<double(const Vector&)>& value, bool plain) const {
    if (!study_.options.profiles || !fit_.certificate.at_bound.empty()) return {};
    if (plain) return profile_intervals(fit_, table_, Quantity(*fit_.model, value));
    return exponentiated(profile_intervals(
        fit_, table_, Quantity(*fit_.model, [&](const Vector& theta) { return std::log(value(theta)); })));
  }

  Estimate decided(const std::string& name, double budget, double (*part)(const Decision&)) {
    const StudyOptions& o = study_.options;
    const auto value = [&, budget, part](const Vector& theta) {
      return part(decide(o.form, *fit_.model, theta, budget, cost_, o.limits));
    };
    Estimate out{name, value(fit_.theta), {}, {}};
    if (!replicates_.empty()) {
      std::vector<double> values(replicates_.size());
      parallel_for(
          replicates_.size(), o.threads, [&](size_t i) { values[i] = value(replicates_[i]); },
          named(progress_, "decisions"));
      std::erase_if(values, [](double v) { return std::isnan(v); });
      out.bootstrap = percentile_intervals(std::move(values));
    }
    if (is_closed_form(o.form, cost_, o.limits) || o.form == Form::kaplan_c) out.profile = profiled(value, false);
    return out;
  }

  const Measurements& table_;
  Study& study_;
  const Fit& fit_;
  const StageProgress& progress_;
  TokenCost cost_;
  std::vector<Vector> replicates_;
  size_t profiled_ = 0;
};

Intervals over_laws(const std::vector<PowerLaw>& laws, const std::function<double(const PowerLaw&)>& value) {
  std::vector<double> values;
  for (const PowerLaw& law : laws) values.push_back(value(law));
  return percentile_intervals(std::move(values));
}

void frontier_estimates(Study& study) {
  const Frontier& f = *study.frontier;
  const auto estimate = [](const std::string& name, const PowerLaw& law, const std::vector<PowerLaw>& replicates,
                           const std::function<double(const PowerLaw&)>& value) {
    Estimate out{name, value(law), {}, {}};
    if (!replicates.empty()) out.bootstrap = over_laws(replicates, value);
    return out;
  };
  const auto exponent = [](const PowerLaw& law) { return law.exponent; };
  study.exponents.push_back(estimate("a (N* ~ C^a)", f.n, f.n_replicates, exponent));
  study.exponents.push_back(estimate("b (D* ~ C^b)", f.d, f.d_replicates, exponent));
  study.exponents.push_back(estimate("loss* ~ C^x", f.loss, f.loss_replicates, exponent));
  study.replicates_used = f.n_replicates.size();
  study.replicates_unidentifiable = f.failed_replicates;
  for (const double budget : study.options.budgets) {
    const auto at = [budget](const PowerLaw& law) { return law.at(budget); };
    BudgetDecision out;
    out.flops = budget;
    out.beyond_data = budget / study.most_c;
    out.n = estimate("N*", f.n, f.n_replicates, at);
    out.d = estimate("D*", f.d, f.d_replicates, at);
    out.loss = estimate("loss", f.loss, f.loss_replicates, at);
    study.decisions.push_back(out);
  }
}

/// The largest usable budget left out, N* and the loss there predicted by the others.
Backtest frontier_backtest(const Frontier& frontier) {
  Backtest out;
  std::vector<BudgetOptimum> used;
  for (const BudgetOptimum& o : frontier.budgets)
    if (o.used) used.push_back(o);
  if (used.size() < 3) {
    out.reason = "fewer than three usable budgets";
    return out;
  }
  const BudgetOptimum last = used.back();
  used.pop_back();
  std::vector<double> c, loss;
  for (const BudgetOptimum& o : used) {
    c.push_back(o.flops);
    loss.push_back(o.loss);
  }
  out.done = true;
  out.held_out = last.rows;
  out.least_flops = out.most_flops = last.flops;
  out.reach = last.flops / used.back().flops;
  out.best_measured = last.loss;
  out.best_predicted = power_law_through(c, loss).at(last.flops);
  out.mean_error = out.worst_error = std::log(out.best_predicted / out.best_measured);
  return out;
}

void study_frontier(const Measurements& table, Study& study, const StageProgress& progress) {
  const StudyOptions& o = study.options;
  if (!table.has_parameters || !(table.has_tokens || table.flops_measured))
    throw Error::make(ExitCode::usage, "form {} needs N and C (or N and D); name their columns", name_of(o.form));
  const Progress tell = named(progress, "bootstrap");
  study.frontier = o.form == Form::isoflop
                       ? isoflop_frontier(table, o.same_budget, o.replicates, o.seed, o.threads, tell)
                       : envelope_frontier(table, o.replicates, o.seed, o.threads, tell);
  frontier_estimates(study);
  if (o.form == Form::isoflop && o.backtest) study.backtest = frontier_backtest(*study.frontier);
  size_t unused = 0;
  for (const BudgetOptimum& budget : study.frontier->budgets) unused += !budget.used;
  if (unused > 0)
    study.warnings.push_back(
        fmt::format("{} of {} budgets were left out; the list above says why", unused, study.frontier->budgets.size()));
}

/// Approach 2 beside a law, where the table has budgets with minima inside.
void compare_with_isoflop(const Measurements& table, Study& study) {
  const Form form = study.options.form;
  if (form != Form::chinchilla && form != Form::gadre) return;
  try {
    study.frontier = isoflop_frontier(table, study.options.same_budget, std::min<size_t>(study.options.replicates, 400),
                                      study.options.seed, study.options.threads);
  } catch (const Error& refusal) {
    study.no_frontier = refusal.what();
    return;
  }
  if (study.exponents.empty() || study.frontier->n_replicates.empty() || !study.exponents[0].bootstrap) return;
  const Interval law = study.exponents[0].bootstrap->p95;
  const Interval iso = over_laws(study.frontier->n_replicates, [](const PowerLaw& l) { return l.exponent; }).p95;
  if (law.high < iso.low || iso.high < law.low)
    study.warnings.push_back(fmt::format(
        "the law says N* ~ C^{:.3f} ({:.3f} to {:.3f}), parabolas through the same budgets {:.3f} ({:.3f} to "
        "{:.3f}): they disagree by more than their 95% intervals, so the form may not suit the table",
        study.exponents[0].value, law.low, law.high, study.frontier->n.exponent, iso.low, iso.high));
}

void warn(Study& study) {
  if (study.fit && !study.fit->certificate.at_bound.empty())
    study.warnings.push_back(
        fmt::format("the fit rests against a bound: {}. Such a constant is not determined by this "
                    "table",
                    fmt::join(study.fit->certificate.at_bound, ", ")));
  for (const BudgetDecision& d : study.decisions)
    if (d.beyond_data > 100)
      study.warnings.push_back(
          fmt::format("C = {:.3g} is {:.0f} times the largest budget in the table; past 100 times even the intervals "
                      "assume that the form holds where nobody looked",
                      d.flops, d.beyond_data));
  const size_t lost = study.replicates_unidentifiable + study.replicates_unconverged;
  if (lost * 20 > study.options.replicates)
    study.warnings.push_back(fmt::format("{} of {} bootstrap replicates could not be fitted; intervals are too narrow",
                                         lost, study.options.replicates));
}

}  // namespace

Study run_study(const Measurements& table, const StudyOptions& options, const StageProgress& progress) {
  Study study;
  study.options = options;
  if (table.size() == 0) throw Error::make(ExitCode::bad_data, "refused: the table has no rows");
  for (const double budget : options.budgets)
    if (!std::isfinite(budget) || !(budget > 0))
      throw Error::make(ExitCode::usage, "a budget of {} FLOP; wanted a finite number above zero", budget);
  describe(table, study);
  if (is_frontier(options.form)) {
    study_frontier(table, study, progress);
    warn(study);
    return study;
  }
  if (progress) progress("fit", 0, 1);
  study.fit = fit_law(options.form, table, options.residual, options.law);
  study.converged = study.fit->certificate.converged;
  if (!study.converged) return study;
  if (const std::string reason = impossible_irreducible(*study.fit, table); !reason.empty())
    throw Error::make(ExitCode::bad_data, "refused: {}", reason);
  LawEstimates estimates(table, study, progress);
  estimates.resample();
  estimates.constants();
  estimates.exponents();
  estimates.decisions();
  if (options.backtest) {
    if (progress) progress("back-test", 0, 1);
    study.backtest = backtest(table, options);
  }
  compare_with_isoflop(table, study);
  warn(study);
  return study;
}

}  // namespace capstan::scaling
