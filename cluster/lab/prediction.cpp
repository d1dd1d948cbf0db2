#include "cluster/lab/prediction.h"

#include <boost/json.hpp>
#include <cmath>

#include "cluster/lab/record_table.h"
#include "cluster/scaling/study.h"
#include "core/error.h"

namespace capstan {

namespace json = boost::json;

CountColumns columns_of(const SweepSpec& spec) {
  const char* c[] = {"flops_half", "flops_whole", "flops_6nd"};
  return {spec.count_n == SweepSpec::CountN::total ? "n_total" : "n_blocks", c[static_cast<int>(spec.count_flops)]};
}

namespace {

void set_shape(HeldOutPrediction& out, const SweepSpec& spec, int64_t vocabulary) {
  const DecoderConfig model = shape_for(spec, out.best_n, vocabulary, common_depth(sweep_sizes(spec, vocabulary)));
  out.width = model.width, out.layers = model.layers;
  out.shape = fmt::format("{}x{}", model.width, model.layers);
  const SweepSize size = sized(spec, out.shape, model, vocabulary);
  out.n = size.n, out.d = out.flops / size.flops_token;
}

constexpr double kLeastError = 1e-3;  // noise of a single run: nobody is trusted more for having been luckier than that

scaling::StudyOptions options_for(scaling::Form form, double flops) {
  scaling::StudyOptions options;
  options.form = form;
  options.replicates = form == scaling::Form::isoflop ? 0 : 400;
  options.profiles = false;
  options.budgets = {flops};
  return options;
}

/// Nothing where the table does not carry this form.
std::optional<scaling::Study> study_of(const scaling::Measurements& table, scaling::Form form, double flops) {
  try {
    scaling::Study study = scaling::run_study(table, options_for(form, flops));
    if (study.converged && !study.decisions.empty() && study.decisions[0].n) return study;
  } catch (const Error&) {
  }
  return {};
}

/// Of ln(loss), at the best run or minimum of the largest budget, foreseen from the smaller ones.
double error_at_best(const scaling::Backtest& backtest) {
  return std::log(backtest.best_predicted / backtest.best_measured);
}

void take_law(HeldOutPrediction& out, const scaling::Study& study) {
  const scaling::BudgetDecision& decision = study.decisions[0];
  out.best_n = decision.n->value, out.best_d = decision.d->value, out.best_loss = decision.loss.value;
  const auto& interval = decision.loss.bootstrap;
  out.low = interval ? interval->p95.low : out.best_loss, out.high = interval ? interval->p95.high : out.best_loss;
  out.basis = fmt::format("L = E + A/N^alpha + B/D^beta fitted to {} runs", study.rows);
}

/// The trend where there is no law.
void take_trend(HeldOutPrediction& out, const scaling::Frontier& frontier) {
  out.best_n = frontier.n.at(out.flops), out.best_d = frontier.d.at(out.flops);
  out.best_loss = out.low = out.high = out.trend_loss;
  out.basis = "the trend of the minima of the parabolas (a law could not be fitted)";
}

/// Off the optimum the trend knows nothing: it is carried to the size that is built as the law carries its own best.
void blend(HeldOutPrediction& out, const scaling::Study& law, const scaling::Study& trend) {
  const double law_error = error_at_best(law.backtest), trend_error = error_at_best(trend.backtest);
  out.law_weight = weight_by_errors(law_error, trend_error);
  const double there = out.trend_loss * out.law_loss / out.best_loss;
  out.loss = std::exp(out.law_weight * std::log(out.law_loss) + (1 - out.law_weight) * std::log(there));
  out.low = std::min(out.low, out.trend_loss), out.high = std::max(out.high, out.trend_loss);
  out.basis = fmt::format(
      "{:.0f}% {} and {:.0f}% the trend of the minima (from the smaller budgets they foresaw the largest to {:+.2f}% "
      "and {:+.2f}%)",
      100 * out.law_weight, out.basis, 100 * (1 - out.law_weight), 100 * law_error, 100 * trend_error);
}

}  // namespace

double weight_by_errors(double first, double second) {
  const double a = std::max(std::abs(first), kLeastError), b = std::max(std::abs(second), kLeastError);
  return b / (a + b);
}

HeldOutPrediction predict_held_out(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records) {
  HeldOutPrediction out;
  out.flops = spec.held_out.flops;
  std::optional<scaling::Study> law, trend;
  try {
    const CountColumns columns = columns_of(spec);
    const scaling::Measurements table = measurements_of(records, {columns.n, columns.c, "loss"}, spec.name);
    law = study_of(table, scaling::Form::chinchilla, out.flops);
    trend = study_of(table, scaling::Form::isoflop, out.flops);
    if (trend) out.trend_loss = trend->frontier->loss.at(out.flops);
    if (law)
      take_law(out, *law);
    else if (trend)
      take_trend(out, *trend->frontier);
  } catch (const Error&) {  // no record at all
  }
  if (!(out.best_n > 0)) {
    const std::vector<SweepSize> sizes = sweep_sizes(spec, vocabulary);
    out.best_n = expected_n(spec, out.flops) > 0 ? expected_n(spec, out.flops) : sizes.back().n;
    out.basis = "the optimum that the sweep file expects; the records carry no law";
  }
  set_shape(out, spec, vocabulary);
  out.loss = out.best_loss;
  if (law)
    out.loss = out.law_loss =
        scaling::loss_at(law->options.form, *law->fit->model, law->fit->theta, out.n, out.d, out.flops, {});
  if (law && trend && law->backtest.done && trend->backtest.done) blend(out, *law, *trend);
  return out;
}

std::string HeldOutPrediction::to_json() const {
  return json::serialize(json::object{{"flops", flops},
                                      {"best_n", best_n},
                                      {"best_d", best_d},
                                      {"best_loss", best_loss},
                                      {"shape", shape},
                                      {"width", width},
                                      {"layers", layers},
                                      {"n", n},
                                      {"d", d},
                                      {"loss", loss},
                                      {"low", low},
                                      {"high", high},
                                      {"law_loss", law_loss},
                                      {"trend_loss", trend_loss},
                                      {"law_weight", law_weight},
                                      {"basis", basis}}) +
         "\n";
}

HeldOutPrediction HeldOutPrediction::from_json(const std::string& text, const std::string& where) {
  try {
    const json::value value = json::parse(text);
    const auto number = [&](const char* key) { return value.at(key).to_number<double>(); };
    HeldOutPrediction out;
    out.flops = number("flops"), out.best_n = number("best_n"), out.best_d = number("best_d");
    out.best_loss = number("best_loss"), out.n = number("n"), out.d = number("d"), out.loss = number("loss");
    out.low = number("low"), out.high = number("high"), out.trend_loss = number("trend_loss");
    if (value.as_object().contains("law_weight"))
      out.law_loss = number("law_loss"), out.law_weight = number("law_weight");
    out.shape = std::string(value.at("shape").as_string()), out.basis = std::string(value.at("basis").as_string());
    out.width = value.at("width").to_number<int64_t>(), out.layers = value.at("layers").to_number<int64_t>();
    if (out.width < 1 || out.width > 1 << 24 || out.layers < 1 || out.layers > 65536)
      throw std::out_of_range("shape out of range");
    return out;
  } catch (const std::exception& error) {
    throw Error::make(ExitCode::bad_data, "{}: this is no prediction of a held-out run ({}); remove it to predict anew",
                      where, error.what());
  }
}

}  // namespace capstan
