// label: plan
// The report of a made-up sweep whose truth is known: whole, self-contained, escaped, and right about the decision.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cluster/lab/chart.h"
#include "cluster/lab/report.h"

namespace capstan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

/// L = 1.5 + 90/N^0.35 + 400/D^0.37 at four budgets of 6ND.
ReportInput made_up() {
  ReportInput input;
  input.spec.name = "made & up <b>";
  input.spec.count_flops = SweepSpec::CountFlops::six_nd;
  input.spec.decide.flops = {1e14};
  input.sweep_text = "[sweep]\nname = \"<script>alert(1)</script>\"\n";
  for (const double c : {3e11, 1e12, 3e12, 1e13})
    for (const double n : {1e4, 3e4, 1e5, 3e5, 1e6}) {
      RunRecord r;
      r.run = fmt::format("n{:.0e}-c{:.0e}", n, c), r.kind = "ladder", r.seed = 1;
      r.width = 16, r.layers = static_cast<int64_t>(std::log(n));
      r.n_total = static_cast<int64_t>(n), r.tokens = r.unique_tokens = c / 6 / n, r.flops_6nd = c;
      r.loss = 1.5 + 90 * std::pow(n, -0.35) + 400 * std::pow(r.tokens, -0.37);
      r.bits_per_byte = r.loss / std::log(2), r.learning_rate = 0.01, r.seconds = 60;
      input.records.push_back(r);
    }
  RunRecord failed = input.records[0];
  failed.run = "<i>bad</i>", failed.status = "failed", failed.reason = "killed & \"gone\" <img src=x>";
  input.records.push_back(failed);
  return input;
}

/// Every tag closed, in order; void elements of HTML left out.
std::string unbalanced(const std::string& text) {
  std::vector<std::string> open;
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return "a tag without end";
    if (text[at + 1] == '!' || text[end - 1] == '/') continue;
    const bool closing = text[at + 1] == '/';
    const size_t begin = at + (closing ? 2 : 1), stop = text.find_first_of(" >\n", begin);
    const std::string name = text.substr(begin, stop - begin);
    if (name == "meta" || name == "br") continue;
    if (!closing) {
      open.push_back(name);
    } else {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back() + " is never closed";
}

TEST(LabReport, IsWholeSelfContainedAndEscaped) {
  const Report report = make_report(made_up());
  std::vector<std::string> names;
  for (const ReportFigure& figure : report.figures) {
    names.push_back(figure.name);
    EXPECT_EQ(unbalanced(figure.svg), "") << figure.name;
    EXPECT_THAT(figure.svg, Not(HasSubstr("nan")));
    EXPECT_THAT(figure.svg, Not(HasSubstr("inf")));
    EXPECT_THAT(report.html, HasSubstr(figure.svg));
  }
  EXPECT_THAT(names, ElementsAre("loss-tokens", "loss-flops", "isoflop", "frontier", "predicted", "residuals"));
  EXPECT_EQ(unbalanced(report.html), "");
  for (const char* never : {"<script", "<img", "<i>bad", "<link", "src=\"", "@import", "url("})
    EXPECT_THAT(report.html, Not(HasSubstr(never))) << never;
  for (const char* part : {"prefers-color-scheme: dark", "made &amp; up &lt;b&gt;", "The decision", "killed &amp;"})
    EXPECT_THAT(report.html, HasSubstr(part));
}

TEST(LabReport, FindsTheTruthOfAMadeUpSweep) {
  const ReportInput input = made_up();
  const ReportLaw law = report_law(input);
  ASSERT_TRUE(law.study) << law.reason;
  const scaling::BudgetDecision& decision = law.study->decisions.at(0);
  // alpha A N^-alpha = beta B D^-beta at the optimum
  const double n = decision.n->value, d = decision.d->value;
  EXPECT_NEAR(0.35 * 90 * std::pow(n, -0.35) / (0.37 * 400 * std::pow(d, -0.37)), 1, 0.01);
  EXPECT_NEAR(6 * n * d / 1e14, 1, 1e-6);
}

TEST(LabReport, WithoutALawItSaysWhy) {
  ReportInput input = made_up();
  input.records.resize(4);
  const Report report = make_report(input);
  EXPECT_THAT(report.html, HasSubstr("No law could be fitted"));
  EXPECT_EQ(unbalanced(report.html), "");
  input.records.clear();
  EXPECT_THAT(make_report(input).html, HasSubstr("No law could be fitted"));
}

TEST(LabReport, TicksAreRound) {
  EXPECT_THAT(round_ticks(0.3, 9.7, false, 5), ElementsAre(2, 4, 6, 8));
  EXPECT_THAT(round_ticks(2e3, 5e7, true, 4), ElementsAre(1e4, 1e5, 1e6, 1e7));
  EXPECT_EQ(tick_text(3e11, true), "3·10¹¹");
  EXPECT_EQ(tick_text(1e-5, true), "10⁻⁵");
  EXPECT_EQ(tick_text(0.25, true), "0.25");
  for (const double low : {1.49, 1.9, 0.02}) EXPECT_GE(round_ticks(low, low * 1.3, true, 4).size(), 3u);
}

TEST(LabReport, CurvesAreThinnedEvenlyInTheLogarithm) {
  std::vector<double> tokens, loss;
  for (int i = 1; i <= 10000; ++i) tokens.push_back(i * 100.0), loss.push_back(5 - 0.3 * std::log(i));
  loss[17] = std::nan("");
  const TrainingCurve curve = thinned(tokens, loss, 50);
  EXPECT_LE(curve.tokens.size(), 51u);
  EXPECT_GE(curve.tokens.size(), 35u);
  for (size_t i = 0; i < curve.tokens.size(); ++i)
    EXPECT_NEAR(curve.loss[i], 5 - 0.3 * std::log(curve.tokens[i] / 100), 0.01);
  EXPECT_TRUE(thinned({}, {}, 10).tokens.empty());
}

}  // namespace
}  // namespace capstan
