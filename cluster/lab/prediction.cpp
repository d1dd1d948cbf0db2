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

double expected_n(const SweepSpec& spec, double flops) {
  const SweepSpec::Budgets& b = spec.budgets;
  if (!(b.centre_flops > 0) || !(b.centre_n > 0)) return 0;
  return b.centre_n * std::pow(flops / b.centre_flops, b.centre_exponent);
}

namespace {

void set_shape(HeldOutPrediction& out, const SweepSpec& spec, int64_t vocabulary) {
  const DecoderConfig model = shape_for(spec, out.best_n, vocabulary);
  out.width = model.width, out.layers = model.layers;
  out.shape = fmt::format("{}x{}", model.width, model.layers);
  const SweepSize size = sized(spec, out.shape, model, vocabulary);
  out.n = size.n, out.d = out.flops / size.flops_token;
}

/// By the minima of the parabolas; false where there are too few.
bool follow_trend(HeldOutPrediction& out, const scaling::Measurements& table) {
  try {
    const scaling::Frontier frontier = scaling::isoflop_frontier(table, 1.1, 0, 1, 1);
    out.trend_loss = frontier.loss.at(out.flops);
    if (out.best_n > 0) return true;
    out.best_n = frontier.n.at(out.flops), out.best_d = frontier.d.at(out.flops);
    out.best_loss = out.low = out.high = out.trend_loss;
    out.basis = "the trend of the minima of the parabolas (a law could not be fitted)";
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// The law's study; nothing where the table does not carry it.
std::optional<scaling::Study> study_of(const scaling::Measurements& table, double flops) {
  scaling::StudyOptions options;
  options.replicates = 400;
  options.profiles = options.backtest = false;
  options.budgets = {flops};
  try {
    scaling::Study study = scaling::run_study(table, options);
    if (study.converged && !study.decisions.empty() && study.decisions[0].n) return study;
  } catch (const Error&) {
  }
  return {};
}

}  // namespace

HeldOutPrediction predict_held_out(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records) {
  HeldOutPrediction out;
  out.flops = spec.held_out.flops;
  std::optional<scaling::Study> study;
  try {
    const CountColumns columns = columns_of(spec);
    const scaling::Measurements table = measurements_of(records, {columns.n, columns.c, "loss"}, spec.name);
    study = study_of(table, out.flops);
    if (study) {
      const scaling::BudgetDecision& decision = study->decisions[0];
      out.best_n = decision.n->value, out.best_d = decision.d->value, out.best_loss = decision.loss.value;
      const auto& interval = decision.loss.bootstrap;
      out.low = interval ? interval->p95.low : out.best_loss, out.high = interval ? interval->p95.high : out.best_loss;
      out.basis = fmt::format("L = E + A/N^alpha + B/D^beta fitted to {} runs", table.size());
    }
    follow_trend(out, table);
  } catch (const Error&) {  // no record at all
  }
  if (!(out.best_n > 0)) {
    const std::vector<SweepSize> sizes = sweep_sizes(spec, vocabulary);
    out.best_n = expected_n(spec, out.flops) > 0 ? expected_n(spec, out.flops) : sizes.back().n;
    out.basis = "the optimum that the sweep file expects; the records carry no law";
  }
  set_shape(out, spec, vocabulary);
  if (study)
    out.loss =
        scaling::loss_at(study->options.form, *study->fit->model, study->fit->theta, out.n, out.d, out.flops, {});
  else
    out.loss = out.best_loss;
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
                                      {"trend_loss", trend_loss},
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
