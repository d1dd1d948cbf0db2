#include "cluster/scaling/fit.h"

#include <algorithm>
#include <cmath>

#include "cluster/scaling/linear_algebra.h"
#include "cluster/scaling/starts.h"
#include "core/error.h"

namespace capstan::scaling {
namespace {

bool uses_n(Form form) { return form != Form::kaplan_d && form != Form::kaplan_c; }
bool uses_d(Form form) { return form != Form::kaplan_n && form != Form::kaplan_c; }

void need_distinct(const std::vector<double>& values, bool present, const char* what, const char* flag, Form form) {
  if (!present)
    throw Error::make(ExitCode::usage, "form {} needs {}; name its column with {}", name_of(form), what, flag);
  const size_t found = distinct(values);
  if (found >= 2) return;
  throw Error::make(ExitCode::bad_data,
                    "refused: all {} rows have the same {} ({:.4g}), so nothing in the table says how the loss depends "
                    "on it; add runs at two or more other values",
                    values.size(), what, values[0]);
}

double log_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double count = static_cast<double>(a.size());
  double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ma += std::log(a[i]) / count;
    mb += std::log(b[i]) / count;
  }
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = std::log(a[i]) - ma, y = std::log(b[i]) - mb;
    aa += x * x;
    bb += y * y;
    ab += x * y;
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

Minimum best_of(const Objective& objective, const Residual& residual, Certificate& certificate) {
  std::vector<double> reached;
  Minimum best;
  for (const Vector& start : starting_points(objective, residual)) {
    Minimum found = minimize(objective, residual, start);
    reached.push_back(found.objective);
    const bool better = found.objective < best.objective * (1 - 1e-9) ||
                        (found.converged && !best.converged && found.objective <= best.objective * (1 + 1e-9));
    if (better) best = std::move(found);
  }
  certificate.starts = reached.size();
  const double floor = objective.total_weight() * 1e-12 * objective.scale(residual);
  for (const double value : reached) certificate.agreeing += value <= best.objective * (1 + 1e-6) + floor;
  return best;
}

std::string doubt(const Certificate& c, const Minimum& best) {
  if (c.starts == 0 || !std::isfinite(best.objective)) return "no starting point gave a finite objective";
  if (!best.converged)
    return fmt::format(
        "the best start stopped after {} steps with a gradient norm of {:.3g} (a Newton step would gain "
        "{:.3g} of {:.6g})",
        best.steps, c.gradient_norm, c.decrement, c.objective);
  if (c.starts >= 8 && c.agreeing < 2)
    return fmt::format("only one of {} starts reached the least objective", c.starts);
  if (!c.eigenvalues.empty() && c.eigenvalues.front() < -1e-9 * c.eigenvalues.back())
    return fmt::format("the point reached is a saddle: least Hessian eigenvalue {:.3g}", c.eigenvalues.front());
  return "";
}

std::vector<int> inside_bounds(const Model& model, const Minimum& best) {
  std::vector<int> out;
  for (const int i : model.free())
    if (std::find(best.at_bound.begin(), best.at_bound.end(), i) == best.at_bound.end()) out.push_back(i);
  return out;
}

}  // namespace

void refuse_unidentifiable(Form form, const Measurements& table, const Model& model) {
  if (form == Form::kaplan_c)
    need_distinct(table.flops, table.flops_measured || (table.has_parameters && table.has_tokens), "compute C",
                  "--flops", form);
  if (uses_n(form)) need_distinct(table.parameters, table.has_parameters, "number of parameters N", "--n", form);
  if (uses_d(form)) need_distinct(table.tokens, table.has_tokens, "number of tokens D", "--d", form);
  const size_t needed = static_cast<size_t>(model.free_count()) + 3;
  if (table.size() < needed)
    throw Error::make(ExitCode::bad_data,
                      "refused: {} rows for {} free parameters; form {} needs at least {} rows (parameters + 3), and "
                      "is worth reading from twice as many",
                      table.size(), model.free_count(), name_of(form), needed);
  if (!uses_n(form) || !uses_d(form)) return;
  const double together = log_correlation(table.parameters, table.tokens);
  if (std::abs(together) > 0.9999)
    throw Error::make(ExitCode::bad_data,
                      "refused: N and D move together in every row (correlation of their logarithms {:.6f}), so what "
                      "is due to size cannot be told from what is due to data; add runs that change one alone",
                      together);
  if (form == Form::repetition) {
    for (size_t i = 0; i < table.size(); ++i)
      if (table.tokens[i] > table.unique[i] * 1.01) return;
    throw Error::make(ExitCode::bad_data,
                      "refused: no row repeats its data (D is never above the unique tokens), so nothing says what "
                      "repetition costs; use form chinchilla");
  }
}

Fit fit_law(Form form, const Measurements& table, const Residual& residual, const FormOptions& options) {
  Fit fit;
  fit.model = make_model(form, table, options);
  fit.residual = residual;
  refuse_unidentifiable(form, table, *fit.model);
  const Sample sample = sample_of(table);
  const Objective objective(*fit.model, sample, sample.weight);
  const Minimum best = best_of(objective, residual, fit.certificate);
  fit.theta = best.theta;
  fit.constants = fit.model->natural(best.theta);
  fit.rows = table.size();
  Certificate& c = fit.certificate;
  c.objective = best.objective;
  c.gradient_norm = best.gradient_norm;
  c.decrement = best.decrement;
  c.eigenvalues = eigenvalues(best.hessian, inside_bounds(*fit.model, best));
  for (const int i : best.at_bound) c.at_bound.push_back(fit.model->coordinate_names()[i]);
  c.reason = doubt(c, best);
  c.converged = c.reason.empty();
  for (size_t i = 0; i < table.size(); ++i) {
    const double log_loss = fit.model->log_loss(sample.places[i], best.theta, nullptr, nullptr);
    fit.predicted.push_back(std::exp(log_loss));
    fit.residuals.push_back(objective.residual(residual, best.theta, i));
    fit.rms_log_error += std::pow(log_loss - sample.log_loss[i], 2) / static_cast<double>(table.size());
  }
  fit.rms_log_error = std::sqrt(fit.rms_log_error);
  return fit;
}

std::string impossible_irreducible(const Fit& fit, const Measurements& table) {
  const int index = fit.model->irreducible();
  if (index < 0) return "";
  const double least = *std::min_element(table.loss.begin(), table.loss.end());
  if (fit.constants[index] < least) return "";
  return fmt::format(
      "the fitted irreducible loss E = {:.6g} is not below the least measured loss {:.6g}: more size or data could not "
      "help, which the table itself contradicts; the runs are too few, too noisy or not comparable",
      fit.constants[index], least);
}

}  // namespace capstan::scaling
