#include <algorithm>
#include <cmath>

#include "cluster/lab/record_table.h"
#include "cluster/lab/report.h"
#include "core/error.h"

namespace capstan {

ReportLaw report_law(const ReportInput& input) {
  ReportLaw law;
  for (const RunRecord& record : input.records)
    if (is_fitted(record)) law.fitted.push_back(record);
  const CountColumns columns = columns_of(input.spec);
  try {
    law.table = measurements_of(input.records, {columns.n, columns.c, "loss"}, input.spec.name);
    scaling::StudyOptions options;
    options.budgets = input.spec.decide.flops;
    options.limits.unique_tokens = input.spec.decide.unique_tokens;
    options.limits.inference_tokens = input.spec.decide.inference_tokens;
    scaling::Study study = scaling::run_study(law.table, options);
    if (!study.converged) {
      law.reason = "the fit did not converge: " + study.fit->certificate.reason;
      return law;
    }
    law.replicates = scaling::bootstrap(*study.fit, law.table, 300, 1, 0).replicates;
    law.study = std::move(study);
  } catch (const Error& error) {
    law.reason = error.what();
  }
  return law;
}

TrainingCurve thinned(const std::vector<double>& tokens, const std::vector<double>& loss, size_t most) {
  TrainingCurve out;
  if (tokens.empty() || tokens.size() != loss.size() || most == 0) return out;
  const double first = std::log(std::max(1.0, tokens.front())), last = std::log(std::max(1.0, tokens.back()));
  const double width = std::max(1e-9, (last - first) / static_cast<double>(most));
  double sum_t = 0, sum_l = 0;
  size_t count = 0;
  double edge = first + width;
  const auto flush = [&] {
    if (count == 0) return;
    out.tokens.push_back(std::exp(sum_t / static_cast<double>(count)));
    out.loss.push_back(sum_l / static_cast<double>(count));
    sum_t = sum_l = 0, count = 0;
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!std::isfinite(loss[i]) || !(tokens[i] > 0)) continue;
    const double t = std::log(tokens[i]);
    if (t > edge + 1e-12) {
      flush();
      while (edge < t) edge += width;
    }
    sum_t += t, sum_l += loss[i], ++count;
  }
  flush();
  return out;
}

Report make_report(const ReportInput& input) {
  const ReportLaw law = report_law(input);
  Report report;
  report.figures = report_figures(input, law);
  report.html = report_html(input, law, report.figures);
  return report;
}

}  // namespace capstan
