#include "cluster/scaling/study_json.h"

#include <boost/json.hpp>
#include <cmath>

namespace capstan::scaling {
namespace {

namespace json = boost::json;

json::value number(double value) { return std::isfinite(value) ? json::value(value) : json::value(nullptr); }

json::array numbers(const std::vector<double>& values) {
  json::array out;
  for (const double value : values) out.push_back(number(value));
  return out;
}

json::value intervals(const std::optional<Intervals>& i) {
  if (!i) return nullptr;
  return json::object{{"68", numbers({i->p68.low, i->p68.high})}, {"95", numbers({i->p95.low, i->p95.high})}};
}

json::object estimate(const Estimate& e) {
  return {{"value", number(e.value)}, {"bootstrap", intervals(e.bootstrap)}, {"profile", intervals(e.profile)}};
}

json::object estimates(const std::vector<Estimate>& all) {
  json::object out;
  for (const Estimate& e : all) out[e.name.substr(0, e.name.find(' '))] = estimate(e);
  return out;
}

json::object certificate(const Certificate& c) {
  json::array bounds;
  for (const std::string& name : c.at_bound) bounds.emplace_back(name);
  return {{"converged", c.converged},
          {"reason", c.reason},
          {"objective", number(c.objective)},
          {"gradient_norm", number(c.gradient_norm)},
          {"newton_gain", number(c.decrement)},
          {"starts", c.starts},
          {"starts_agreeing", c.agreeing},
          {"hessian_eigenvalues", numbers(c.eigenvalues)},
          {"bounds_touched", bounds}};
}

json::object fit_object(const Fit& fit) {
  const char* cost = fit.residual.cost == Cost::huber ? "huber" : fit.residual.cost == Cost::l1 ? "l1" : "l2";
  json::object out{{"cost", cost}, {"residual", fit.residual.on_log ? "log" : "raw"}, {"rows", fit.rows}};
  if (fit.residual.cost == Cost::huber) out["delta"] = fit.residual.delta;
  out["certificate"] = certificate(fit.certificate);
  out["rms_log_error"] = number(fit.rms_log_error);
  out["predicted"] = numbers(fit.predicted);
  out["residuals"] = numbers(fit.residuals);
  return out;
}

json::object power_law(const PowerLaw& law) {
  return {{"ln_coefficient", number(law.ln_coefficient)}, {"exponent", number(law.exponent)}};
}

json::object frontier_object(const Frontier& f) {
  json::array budgets;
  for (const BudgetOptimum& b : f.budgets)
    budgets.push_back(json::object{{"flops", number(b.flops)},
                                   {"rows", b.rows},
                                   {"used", b.used},
                                   {"reason", b.reason},
                                   {"n", number(b.n)},
                                   {"d", number(b.d)},
                                   {"loss", number(b.loss)},
                                   {"rms_error", number(b.rms_error)},
                                   {"ln_n_half_width_1_percent", number(b.half_width)}});
  return {{"budgets", budgets},  {"points", f.points},        {"n", power_law(f.n)},
          {"d", power_law(f.d)}, {"loss", power_law(f.loss)}, {"replicates_failed", f.failed_replicates}};
}

json::array decisions(const Study& s) {
  json::array out;
  for (const BudgetDecision& d : s.decisions) {
    json::object one{{"flops", number(d.flops)}, {"times_largest_in_table", number(d.beyond_data)}};
    if (d.n) one["n"] = estimate(*d.n);
    if (d.d) one["d"] = estimate(*d.d);
    one["loss"] = estimate(d.loss);
    out.push_back(one);
  }
  return out;
}

json::object backtest_object(const Backtest& b) {
  json::object out{{"done", b.done}, {"reason", b.reason}, {"rows_left_out", b.held_out}};
  if (!b.done) return out;
  out["flops"] = numbers({b.least_flops, b.most_flops});
  out["reach"] = number(b.reach);
  out["mean_log_error"] = number(b.mean_error);
  out["worst_log_error"] = number(b.worst_error);
  out["best_measured"] = number(b.best_measured);
  out["best_predicted"] = number(b.best_predicted);
  return out;
}

json::object table_object(const Study& s, const std::string& name) {
  json::object out{{"name", name},
                   {"rows", s.rows},
                   {"runs", s.runs},
                   {"n", numbers({s.least_n, s.most_n})},
                   {"d", numbers({s.least_d, s.most_d})},
                   {"flops", numbers({s.least_c, s.most_c})},
                   {"loss", numbers({s.least_loss, s.most_loss})},
                   {"flops_are_6nd", !s.exact_cost}};
  if (s.noise)
    out["noise"] = {{"log_sd", number(s.noise->log_sd)},
                    {"loss_power", number(s.noise->loss_power)},
                    {"cells", s.noise->cells},
                    {"degrees_of_freedom", s.noise->degrees}};
  return out;
}

}  // namespace

std::string study_json(const Study& s, const std::string& table_name) {
  json::object out{{"format", "capstan-fit-1"}, {"form", name_of(s.options.form)}};
  out["table"] = table_object(s, table_name);
  out["converged"] = s.converged;
  if (s.fit) out["fit"] = fit_object(*s.fit);
  out["constants"] = estimates(s.constants);
  out["exponents"] = estimates(s.exponents);
  out["bootstrap"] = {{"asked", s.options.replicates},
                      {"used", s.replicates_used},
                      {"unidentifiable", s.replicates_unidentifiable},
                      {"unconverged", s.replicates_unconverged},
                      {"seed", s.options.seed}};
  out["limits"] = {{"unique_tokens", number(s.options.limits.unique_tokens)},
                   {"inference_tokens", number(s.options.limits.inference_tokens)}};
  out["decisions"] = decisions(s);
  out["backtest"] = backtest_object(s.backtest);
  if (s.frontier) out["frontier"] = frontier_object(*s.frontier);
  json::array warnings;
  for (const std::string& warning : s.warnings) warnings.emplace_back(warning);
  out["warnings"] = warnings;
  return json::serialize(out) + "\n";
}

}  // namespace capstan::scaling
