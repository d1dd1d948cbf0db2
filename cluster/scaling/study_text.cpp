#include "cluster/scaling/study_text.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace capstan::scaling {

std::string count_text(double count) {
  static constexpr struct {
    double unit;
    const char* name;
  } kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  if (!(count < 1e16)) return fmt::format("{:.3g}", count);
  for (const auto& unit : kUnits)
    if (count >= unit.unit * 0.9995) return fmt::format("{:.3g}{}", count / unit.unit, unit.name);
  return fmt::format("{:.3g}", count);
}

namespace {

using Writer = std::string (*)(double);

std::string loss_text(double value) { return fmt::format("{:.4f}", value); }
std::string number4(double value) { return fmt::format("{:.4g}", value); }

std::string interval_text(const Interval& i, Writer write) {
  return fmt::format("{} to {}", std::isfinite(i.low) ? write(i.low) : "no lower end",
                     std::isfinite(i.high) ? write(i.high) : "no upper end");
}

std::string estimate_line(const Estimate& e, Writer write) {
  std::string line = fmt::format("  {:<14}{:<14}", e.name, write(e.value));
  line += fmt::format("{:<28}", e.bootstrap ? interval_text(e.bootstrap->p95, write) : "");
  if (e.profile) line += interval_text(e.profile->p95, write);
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line + "\n";
}

std::string heading(const std::string& first) {
  return fmt::format("  {:<14}{:<14}{:<28}{}\n", first, "value", "95% by bootstrap", "95% by profile");
}

const char* cost_name(Cost cost) {
  return cost == Cost::huber ? "Huber" : cost == Cost::l1 ? "L1 (least absolute deviation)" : "L2 (least squares)";
}

std::string formula_of(Form form) {
  for (const FormName& entry : form_names())
    if (entry.form == form) return entry.formula;
  return "";
}

std::string table_part(const Study& s, const std::string& name) {
  std::string out = fmt::format("table       {}: {} rows of {} runs\n", name, s.rows, s.runs);
  out +=
      fmt::format("            N {} to {}, D {} to {}, C {:.3g} to {:.3g} FLOP{}, loss {:.4f} to {:.4f}\n",
                  count_text(s.least_n), count_text(s.most_n), count_text(s.least_d), count_text(s.most_d), s.least_c,
                  s.most_c, s.exact_cost ? " (not 6 N D; decisions follow the table)" : "", s.least_loss, s.most_loss);
  if (s.noise)
    out +=
        fmt::format("noise       {:.3f}% of the loss, from {} cells measured more than once ({} degrees of freedom)\n",
                    100 * s.noise->log_sd, s.noise->cells, s.noise->degrees);
  return out + fmt::format("form        {}: {}\n", name_of(s.options.form), formula_of(s.options.form));
}

std::string certificate_part(const Study& s) {
  const Fit& fit = *s.fit;
  const Certificate& c = fit.certificate;
  std::string out =
      fmt::format("cost        {}{} of {}, the weighted sum over rows\n", cost_name(fit.residual.cost),
                  fit.residual.cost == Cost::huber ? fmt::format(" (delta {:g})", fit.residual.delta) : "",
                  fit.residual.on_log ? "ln(predicted) - ln(measured)" : "predicted - measured");
  out += fmt::format("\ncertificate {}\n", c.converged ? "converged" : "NOT CONVERGED: " + c.reason);
  out += fmt::format("  objective (sum)      {:.9g}\n", c.objective);
  out += fmt::format("  gradient norm        {:.2e}; one more Newton step would gain {:.1e} of the objective\n",
                     c.gradient_norm, c.objective > 0 ? c.decrement / c.objective : 0);
  out += fmt::format("  starting points      {} of {} reached this objective within 1e-6\n", c.agreeing, c.starts);
  std::string values;
  for (const double value : c.eigenvalues) values += fmt::format(" {:.3g}", value);
  out += fmt::format("  Hessian eigenvalues {}{}\n", values,
                     fit.residual.cost == Cost::l1 ? " (of L1 smoothed; large by nature)" : "");
  out += fmt::format("  bounds touched       {}\n",
                     c.at_bound.empty() ? "none" : fmt::format("{}", fmt::join(c.at_bound, ", ")));
  out += fmt::format("  typical error        {:.3f}% of the loss (root mean square)\n", 100 * fit.rms_log_error);
  return out;
}

std::string constants_part(const Study& s) {
  std::string out = "\n" + heading("constant");
  for (const Estimate& e : s.constants) out += estimate_line(e, number4);
  for (const Estimate& e : s.exponents) out += estimate_line(e, number4);
  const size_t lost = s.replicates_unidentifiable + s.replicates_unconverged;
  if (s.replicates_used > 0)
    out += fmt::format("  ({} bootstrap replicates, seed {}{})\n", s.replicates_used, s.options.seed,
                       lost == 0 ? "" : fmt::format("; {} more could not be fitted", lost));
  if (s.fit && s.constants.size() > 2)
    out += "  Constants are strongly correlated with one another: judge the fit by its decisions, not by A and B.\n";
  if (!s.fit)
    out +=
        "  The loss is drawn as a straight line in logarithms, without a floor: far beyond the table it is too low.\n";
  return out;
}

std::string budgets_part(const Frontier& f, Form form) {
  std::string out = form == Form::envelope ? "\nsizes that were best somewhere\n" : "\nbudgets\n";
  for (const BudgetOptimum& b : f.budgets)
    out += b.used ? fmt::format("  C {:<10.3g} {:>4} {}  N* {:<8} D* {:<8} loss {:.4f}{}\n", b.flops, b.rows,
                                form == Form::envelope ? "steps" : "rows", count_text(b.n), count_text(b.d), b.loss,
                                b.half_width > 0 ? fmt::format("  within 1% from {} to {}",
                                                               count_text(b.n * std::exp(-b.half_width)),
                                                               count_text(b.n * std::exp(b.half_width)))
                                                 : "")
                  : fmt::format("  C {:<10.3g} {:>4} rows  left out: {}\n", b.flops, b.rows, b.reason);
  return out;
}

std::string limits_text(const Limits& limits) {
  std::string out;
  if (limits.unique_tokens > 0) out += fmt::format(", {} distinct tokens", count_text(limits.unique_tokens));
  if (limits.inference_tokens > 0) out += fmt::format(", {} tokens to serve", count_text(limits.inference_tokens));
  return out;
}

std::string decisions_part(const Study& s) {
  std::string out;
  for (const BudgetDecision& d : s.decisions) {
    out += fmt::format("\nat C = {:.4g} FLOP ({:.3g} times the largest in the table){}\n", d.flops, d.beyond_data,
                       limits_text(s.options.limits));
    out += heading("decision");
    if (d.n) out += estimate_line(*d.n, count_text);
    if (d.d) out += estimate_line(*d.d, count_text);
    if (d.n && d.d) out += fmt::format("  {:<14}{:.3g}\n", "D*/N*", d.d->value / d.n->value);
    out += estimate_line(d.loss, loss_text);
  }
  return out;
}

std::string backtest_part(const Study& s) {
  const Backtest& b = s.backtest;
  if (!b.done) return b.reason.empty() ? "" : fmt::format("\nback-test   not possible: {}\n", b.reason);
  std::string out = fmt::format(
      "\nback-test   the largest budgets left out ({} rows, C {:.3g} to {:.3g}; at most {:.3g} times what was fitted), "
      "then predicted\n",
      b.held_out, b.least_flops, b.most_flops, b.reach);
  out += fmt::format("  error of the loss    mean {:+.3f}%, worst {:+.3f}%\n", 100 * std::expm1(b.mean_error),
                     100 * std::expm1(b.worst_error));
  return out + fmt::format("  best run left out    measured {:.4f}, predicted {:.4f} ({:+.3f}%)\n", b.best_measured,
                           b.best_predicted, 100 * (b.best_predicted / b.best_measured - 1));
}

std::string comparison_part(const Study& s) {
  if (!s.fit) return "";
  if (!s.frontier) {
    if (s.no_frontier.empty()) return "";
    return "\ncompared with parabolas (isoflop): not possible here; --form isoflop says why, budget by budget\n";
  }
  return fmt::format("\ncompared with parabolas (isoflop) through {} budgets: N* ~ C^{:.3f}, D* ~ C^{:.3f}\n",
                     s.frontier->points, s.frontier->n.exponent, s.frontier->d.exponent);
}

}  // namespace

std::string study_text(const Study& s, const std::string& table_name) {
  std::string out = table_part(s, table_name);
  if (s.fit) out += certificate_part(s);
  if (!s.converged) return out + "\nNo constants are given: numbers from a search that did not end mean nothing.\n";
  if (!s.fit && s.frontier) out += budgets_part(*s.frontier, s.options.form);
  out += constants_part(s);
  out += decisions_part(s);
  out += backtest_part(s);
  out += comparison_part(s);
  for (const std::string& warning : s.warnings) out += "\nwarning: " + warning + "\n";
  return out;
}

}  // namespace capstan::scaling
