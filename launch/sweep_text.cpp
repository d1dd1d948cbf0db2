#include "launch/sweep_text.h"

#include <cmath>

#include "cluster/lab/record_table.h"
#include "cluster/scaling/study.h"
#include "core/error.h"
#include "launch/console.h"

namespace capstan {

std::string plan_table(const SweepPlan& plan, const std::vector<double>& seconds) {
  std::string text = fmt::format("{:>4}  {:<30} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9}\n", "wave", "run", "N",
                                 "tokens", "FLOP", "C/6ND", "steps", "rate", "time");
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const PlannedRun& run = plan.runs[i];
    const SweepSize& size = plan.sizes[run.size];
    const double six = 6.0 * static_cast<double>(size.parts.total());
    text +=
        fmt::format("{:>4}  {:<30} {:>9} {:>9} {:>9} {:>9.2f} {:>7} {:>9} {:>9}\n", run.wave, run.id,
                    short_number(size.n), short_number(run.tokens), short_number(run.flops), size.flops_token / six,
                    run.steps - run.first_step, fmt::format("{:.2g}{}", run.learning_rate, run.provisional ? "?" : ""),
                    i < seconds.size() && seconds[i] > 0 ? duration_text(seconds[i]) : "");
  }
  return text;
}

std::string failure_text(const std::vector<RunRecord>& records) {
  std::string text;
  for (const RunRecord& record : records)
    if (!record.done())
      text += fmt::format("  {} {} at step {} after {} start{}: {}\n", record.run, record.status, record.steps,
                          record.attempts, record.attempts == 1 ? "" : "s", record.reason);
  return text.empty() ? "" : "not done:\n" + text;
}

std::string law_text(const SweepSpec& spec, const std::vector<RunRecord>& records) {
  const CountColumns columns = columns_of(spec);
  try {
    const scaling::Measurements table = measurements_of(records, {columns.n, columns.c, "loss"}, spec.name);
    scaling::StudyOptions options;
    options.replicates = 200;
    options.profiles = false;
    const scaling::Study study = scaling::run_study(table, options);
    if (!study.converged) return fmt::format("no law: the fit did not converge: {}\n", study.fit->certificate.reason);
    const std::vector<double>& c = study.fit->constants;
    std::string text = fmt::format(
        "law      L = {:.3f} + {:.4g}/N^{:.3f} + {:.4g}/D^{:.3f} over {} runs, typical error {:.2f}% (N: {}, C: {})\n",
        c[0], c[1], c[3], c[2], c[4], study.rows, 100 * study.fit->rms_log_error, columns.n, columns.c);
    if (study.backtest.done)
      text += fmt::format("         largest budget left out and predicted: {:+.2f}% on average\n",
                          100 * study.backtest.mean_error);
    for (const std::string& warning : study.warnings) text += "warning  " + warning + "\n";
    return text;
  } catch (const Error& error) {
    return fmt::format("no law: {}\n", error.what());
  }
}

std::string held_out_text(const SweepPlan& plan, const std::vector<RunRecord>& records) {
  if (!plan.prediction) return "";
  const HeldOutPrediction& p = *plan.prediction;
  for (const RunRecord& record : records) {
    if (record.kind != "held-out" || !record.done()) continue;
    std::string text =
        fmt::format("held out at {} FLOP, {}: predicted {:.4f} by {}, measured {:.4f}: {:+.2f}%\n",
                    short_number(p.flops), p.shape, p.loss, p.basis, record.loss, 100 * (p.loss / record.loss - 1));
    if (p.law_loss > 0 && p.law_weight < 1)
      text += fmt::format("         the law alone said {:.4f}: {:+.2f}%\n", p.law_loss,
                          100 * (p.law_loss / record.loss - 1));
    if (p.trend_loss > 0)
      text += fmt::format("         the trend of the minima said {:.4f}: {:+.2f}%\n", p.trend_loss,
                          100 * (p.trend_loss / record.loss - 1));
    return text;
  }
  return "";
}

std::string sweep_key_text() {
  std::string text;
  SweepSpec defaults;
  for (const SweepKey& key : sweep_keys()) {
    std::string wanted = key.choices.empty() ? key.range.text() : fmt::format("{}", fmt::join(key.choices, ", "));
    text += fmt::format("{}{}{}; default {}\n    {}\n", key.name, key.unit.empty() ? "" : " (" + key.unit + ")",
                        wanted.empty() ? "" : ": " + wanted, to_toml(key.get(defaults)), key.sentence);
  }
  return text +
         "sweep.overrides\n    A table of PATTERN = [\"key=value\", ...]: settings for the runs whose names match.\n";
}

}  // namespace capstan
