#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cluster/lab/chart.h"
#include "cluster/lab/record_table.h"
#include "cluster/lab/report.h"

namespace capstan {
namespace {

using Kind = ChartSeries::Kind;

class Figures {
 public:
  Figures(const ReportInput& input, const ReportLaw& law) : input_(input), law_(law), columns_(columns_of(input.spec)) {
    for (const RunRecord& r : input.records)
      if (r.done())
        sizes_[record_number(r, columns_.n)] = r.preset.empty() ? fmt::format("{}x{}", r.width, r.layers) : r.preset;
  }

  std::vector<ReportFigure> all() {
    add("loss-tokens", "More text, lower loss",
        "Each line is one run while it trained; the dot at its end is its loss on text it has never seen. Larger "
        "models "
        "end lower when they get the same text.",
        over_training(false));
    add("loss-flops", "What a given amount of computing buys",
        "The same runs, by the floating-point operations they took. The lower edge of all lines is the frontier: the "
        "best that this much computing can do.",
        over_training(true));
    if (!law_.fitted.empty() && has_budgets())
      add("isoflop", "One budget, many sizes",
          "All dots of one colour cost the same. Too small a model cannot learn more, too large a one has seen too "
          "little text: the best size lies between. The curves are parabolas through the dots.",
          isoflop());
    if (law_.study) {
      add("frontier", "The best size for a budget",
          "The size that the fitted law advises at each budget; the band holds 95% of what resampled runs would say.",
          frontier());
      add("predicted", "Does the law know its own runs?",
          "Each dot is a run: what the law says against what was measured, bars holding 95%. On the line it is exact.",
          predicted());
      add("residuals", "What the law gets wrong",
          "Predicted minus measured, in percent. A slope or a curve in these dots means that the law bends away from "
          "what happens, and that its predictions beyond the last dot cannot be trusted that far.",
          residuals());
    }
    return figures_;
  }

 private:
  void add(const char* name, const char* title, const char* caption, Chart chart) {
    chart.title = title;
    figures_.push_back({name, title, caption, svg_of(chart)});
  }

  double shade(double n) const {
    if (sizes_.size() < 2) return 0;
    const double low = std::log(sizes_.begin()->first), high = std::log(sizes_.rbegin()->first);
    return (std::log(n) - low) / (high - low);
  }

  std::string note(const RunRecord& r) const {
    return fmt::format("{}: N {}, D {}, C {}, loss {:.4f}", r.run, short_number(record_number(r, columns_.n)),
                       short_number(r.tokens), short_number(record_number(r, columns_.c)), r.loss);
  }

  Chart over_training(bool by_flops) const {
    Chart chart;
    chart.x_label = by_flops ? "training FLOP" : "tokens of text";
    chart.y_label = "loss (nats per token)";
    chart.x_log = chart.y_log = true;
    chart.legend_title = "model (width x layers)";
    for (const auto& [n, label] : sizes_) {
      ChartSeries ends{Kind::points, label, shade(n), {}};
      for (const RunRecord& r : input_.records) {
        if (!r.done() || r.kind == "search" || record_number(r, columns_.n) != n) continue;
        const double scale = by_flops ? record_number(r, columns_.c) / r.tokens : 1;
        ends.points.push_back({scale * r.tokens, r.loss, note(r)});
        const auto curve = input_.curves.find(r.run);
        if (curve == input_.curves.end()) continue;
        ChartSeries line{Kind::line, "", shade(n), {}};
        const TrainingCurve& c = curve->second;
        for (size_t i = 0; i < c.tokens.size(); ++i)
          if (c.loss[i] < 2.2 * r.loss) line.points.push_back({scale * c.tokens[i], c.loss[i], ""});
        chart.series.push_back(line);
      }
      if (!ends.points.empty()) chart.series.push_back(ends);
    }
    if (by_flops && law_.study) chart.series.push_back(best_losses());
    return chart;
  }

  double low_c() const { return law_.study->least_c; }
  double high_c() const {
    double high = law_.study->most_c;
    if (input_.prediction) high = std::max(high, input_.prediction->flops);
    for (const double c : input_.spec.decide.flops)
      if (c < 30 * law_.study->most_c) high = std::max(high, c);
    return high;
  }
  std::vector<double> budgets() const {
    std::vector<double> out;
    for (int i = 0; i <= 24; ++i) out.push_back(low_c() * std::pow(high_c() / low_c(), i / 24.0));
    return out;
  }
  scaling::Decision decide(const scaling::Vector& theta, double c) const {
    const scaling::Study& study = *law_.study;
    return scaling::decide(study.options.form, *study.fit->model, theta, c, scaling::TokenCost(law_.table), {});
  }

  ChartSeries best_losses() const {
    ChartSeries line{Kind::dashed, "the law's best", -1, {}};
    for (const double c : budgets()) line.points.push_back({c, decide(law_.study->fit->theta, c).loss, ""});
    return line;
  }

  std::vector<std::vector<size_t>> budget_groups() const { return scaling::groups_of(law_.table.flops, 1.1); }
  bool has_budgets() const {
    for (const auto& group : budget_groups())
      if (group.size() >= 3) return true;
    return false;
  }

  Chart isoflop() const {
    Chart chart;
    chart.x_label = columns_.n == "n_total" ? "parameters of the model" : "non-embedding parameters of the model";
    chart.y_label = "loss (nats per token)";
    chart.x_log = chart.y_log = true;
    chart.legend_title = "training FLOP";
    const auto groups = budget_groups();
    for (size_t g = 0; g < groups.size(); ++g) {
      if (groups[g].size() < 3) continue;
      const double at = groups.size() < 2 ? 0 : static_cast<double>(g) / static_cast<double>(groups.size() - 1);
      ChartSeries dots{Kind::points, tick_text(rounded(law_.table.flops[groups[g][0]]), true), at, {}};
      for (const size_t row : groups[g])
        dots.points.push_back({law_.table.parameters[row], law_.table.loss[row], note(law_.fitted[row])});
      std::sort(dots.points.begin(), dots.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
      chart.series.push_back(parabola(dots));
      chart.series.push_back(dots);
    }
    return chart;
  }

  static double rounded(double x) { return std::stod(fmt::format("{:.2g}", x)); }

  /// Least squares in (ln x, y).
  static ChartSeries parabola(const ChartSeries& dots) {
    ChartSeries line{Kind::line, "", dots.shade, {}};
    double s[5] = {}, t[3] = {}, centre = 0;
    for (const ChartPoint& p : dots.points) centre += std::log(p.x) / static_cast<double>(dots.points.size());
    for (const ChartPoint& p : dots.points) {
      const double x = std::log(p.x) - centre;
      double power = 1;
      for (int k = 0; k < 5; ++k, power *= x) {
        s[k] += power;
        if (k < 3) t[k] += power * p.y;
      }
    }
    const double det =
        s[0] * (s[2] * s[4] - s[3] * s[3]) - s[1] * (s[1] * s[4] - s[2] * s[3]) + s[2] * (s[1] * s[3] - s[2] * s[2]);
    if (std::abs(det) < 1e-12) return line;
    const double a =
        (t[0] * (s[2] * s[4] - s[3] * s[3]) - s[1] * (t[1] * s[4] - s[3] * t[2]) + s[2] * (t[1] * s[3] - s[2] * t[2])) /
        det;
    const double b =
        (s[0] * (t[1] * s[4] - t[2] * s[3]) - t[0] * (s[1] * s[4] - s[2] * s[3]) + s[2] * (s[1] * t[2] - s[2] * t[1])) /
        det;
    const double c =
        (s[0] * (s[2] * t[2] - s[3] * t[1]) - s[1] * (s[1] * t[2] - s[2] * t[1]) + t[0] * (s[1] * s[3] - s[2] * s[2])) /
        det;
    const double low = std::log(dots.points.front().x) - centre, high = std::log(dots.points.back().x) - centre;
    for (int i = 0; i <= 40; ++i) {
      const double x = low + (high - low) * i / 40;
      line.points.push_back({std::exp(x + centre), a + b * x + c * x * x, ""});
    }
    return line;
  }

  Chart frontier() const {
    Chart chart;
    chart.x_label = "training FLOP", chart.y_label = "advised size N (parameters)";
    chart.x_log = chart.y_log = true;
    ChartSeries band{Kind::band, "95% of resamplings", 0.1, {}}, line{Kind::line, "the law", 0.1, {}},
        dots{Kind::points, "minima of parabolas", 0.8, {}}, told{Kind::points, "held-out run", -1, {}};
    for (const double c : budgets()) {
      std::vector<double> sizes;
      for (size_t i = 0; i < law_.replicates.size(); i += 3) sizes.push_back(decide(law_.replicates[i], c).n);
      line.points.push_back({c, decide(law_.study->fit->theta, c).n, ""});
      if (sizes.size() < 20) continue;
      const scaling::Interval p = scaling::percentile_intervals(sizes).p95;
      band.points.push_back({c, line.points.back().y, "", p.low, p.high});
    }
    if (law_.study->frontier)
      for (const scaling::BudgetOptimum& b : law_.study->frontier->budgets)
        if (b.used) dots.points.push_back({b.flops, b.n, fmt::format("minimum at N {}", short_number(b.n))});
    for (const RunRecord& r : input_.records)
      if (r.kind == "held-out" && r.done())
        told.points.push_back({record_number(r, columns_.c), record_number(r, columns_.n), note(r)});
    for (ChartSeries* s : {&band, &line, &dots, &told})
      if (!s->points.empty()) chart.series.push_back(*s);
    return chart;
  }

  /// What the law says of a place, and 95% of what the replicates say.
  ChartPoint told(const RunRecord& r) const {
    const scaling::Study& study = *law_.study;
    const double n = record_number(r, columns_.n), c = record_number(r, columns_.c);
    const auto loss = [&](const scaling::Vector& theta) {
      return scaling::loss_at(study.options.form, *study.fit->model, theta, n, r.tokens, c, {});
    };
    ChartPoint p{r.loss, loss(study.fit->theta), note(r)};
    std::vector<double> all;
    for (const scaling::Vector& theta : law_.replicates) all.push_back(loss(theta));
    if (all.size() < 20) return p;
    const scaling::Interval interval = scaling::percentile_intervals(all).p95;
    p.low = interval.low, p.high = interval.high;
    return p;
  }

  Chart predicted() const {
    Chart chart;
    chart.x_label = "measured loss", chart.y_label = "predicted loss";
    ChartSeries exact{Kind::dashed, "exact", -1, {}}, fitted{Kind::points, "fitted runs", 0.1, {}},
        held{Kind::points, "held-out run", 0.85, {}};
    double low = 1e300, high = 0;
    for (const RunRecord& r : input_.records) {
      const bool out = r.kind == "held-out" && r.done();
      if (!out && !is_fitted(r)) continue;
      (out ? held : fitted).points.push_back(told(r));
      low = std::min(low, r.loss), high = std::max(high, r.loss);
    }
    exact.points = {{low, low, ""}, {high, high, ""}};
    for (const ChartSeries& s : {exact, fitted, held})
      if (!s.points.empty()) chart.series.push_back(s);
    return chart;
  }

  Chart residuals() const {
    Chart chart;
    chart.x_label = "training FLOP", chart.y_label = "predicted - measured (%)";
    chart.x_log = true;
    chart.legend_title = "model (width x layers)";
    std::map<double, ChartSeries> by_size;
    double low = 1e300, high = 0;
    for (const RunRecord& r : input_.records) {
      if (!is_fitted(r) && !(r.kind == "held-out" && r.done())) continue;
      const double n = record_number(r, columns_.n), c = record_number(r, columns_.c), error = told(r).y / r.loss - 1;
      ChartSeries& s = by_size.try_emplace(n, ChartSeries{Kind::points, sizes_[n], shade(n), {}}).first->second;
      s.points.push_back({c, 100 * error, fmt::format("{}: {:+.2f}%", note(r), 100 * error)});
      low = std::min(low, c), high = std::max(high, c);
    }
    chart.series.push_back({Kind::dashed, "", -1, {{low, 0, ""}, {high, 0, ""}}});
    for (const auto& [n, s] : by_size) chart.series.push_back(s);
    return chart;
  }

  const ReportInput& input_;
  const ReportLaw& law_;
  CountColumns columns_;
  mutable std::map<double, std::string> sizes_;
  std::vector<ReportFigure> figures_;
};

}  // namespace

std::vector<ReportFigure> report_figures(const ReportInput& input, const ReportLaw& law) {
  return Figures(input, law).all();
}

}  // namespace capstan
