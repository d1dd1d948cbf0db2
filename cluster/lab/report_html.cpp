#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <set>

#include "cluster/lab/chart.h"
#include "cluster/lab/record_table.h"
#include "cluster/lab/report.h"

namespace capstan {
namespace {

constexpr const char* kPageStyle = R"(
:root{color-scheme:light dark;--ground:#ffffff;--panel:#f5f6f8;--ink:#1d2126;--dim:#5b636e;--line:#d9dde2;--mark:#2257c4}
@media (prefers-color-scheme: dark){:root{--ground:#16191d;--panel:#1e2328;--ink:#e8eaed;--dim:#a4acb6;--line:#333a42;--mark:#7fa8ff}}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1rem 4rem;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'DejaVu Sans',sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .4rem}h2{font-size:1.25rem;margin:2.4rem 0 .5rem}
p.lead{font-size:1.1rem}.dim,figcaption{color:var(--dim)}figure{margin:1.4rem 0}svg{max-width:100%;height:auto;border:1px solid var(--line);border-radius:6px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem;min-width:100%}
th,td{text-align:right;padding:.35rem .45rem;border-bottom:1px solid var(--line);white-space:nowrap}th:first-child,td:first-child{text-align:left}
th{color:var(--dim);font-weight:600}td.words{white-space:normal;text-align:left}
.box{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.8rem 1rem;margin:1rem 0}.box p{margin:.3rem 0}
strong{color:var(--mark)}code,pre{font:13px/1.5 ui-monospace,'DejaVu Sans Mono',monospace}pre{overflow-x:auto;background:var(--panel);padding:.8rem;border-radius:6px}
summary{cursor:pointer}dt{font-weight:600;margin-top:.6rem}dd{margin:0 0 0 1rem}
)";

std::string number(double x) { return std::isfinite(x) ? tick_text(std::stod(fmt::format("{:.3g}", x)), true) : "-"; }

std::string time_text(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 172800) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} days", seconds / 86400);
}

std::string interval(const std::optional<scaling::Intervals>& i, const char* format) {
  if (!i) return "";
  return fmt::format(" <span class=\"dim\">{} to {}</span>", fmt::format(fmt::runtime(format), i->p95.low),
                     fmt::format(fmt::runtime(format), i->p95.high));
}

std::string count_interval(const std::optional<scaling::Intervals>& i) {
  if (!i) return "";
  return fmt::format("<br><span class=\"dim\">{} to {}</span>", number(i->p95.low), number(i->p95.high));
}

/// Weights, gradients and AdamW's moments in fp32: what any layout has to hold somewhere.
constexpr double kBytesPerParameter = 16;

class Page {
 public:
  Page(const ReportInput& input, const ReportLaw& law, const std::vector<ReportFigure>& figures)
      : input_(input), law_(law), figures_(figures) {}

  std::string html() {
    out_ = fmt::format(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{0}: scaling report</title>"
        "<style>{1}</style></head><body>\n<h1>{0}: how large, and how much text?</h1>\n",
        xml_text(input_.spec.name), kPageStyle);
    summary();
    decisions();
    held_out();
    for (const ReportFigure& f : figures_)
      out_ += fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", f.svg, xml_text(f.caption));
    law_section();
    runs();
    words();
    provenance();
    return out_ + "</body></html>\n";
  }

 private:
  void paragraph(const std::string& html, const char* kind = "") {
    out_ += fmt::format("<p{}>{}</p>\n", *kind ? fmt::format(" class=\"{}\"", kind) : "", html);
  }
  void heading(const char* words) { out_ += fmt::format("<h2>{}</h2>\n", words); }

  size_t done() const {
    return static_cast<size_t>(
        std::count_if(input_.records.begin(), input_.records.end(), [](const auto& r) { return r.done(); }));
  }

  void summary() {
    paragraph(fmt::format("{} small models were trained. How their loss falls with size and text tells what a larger "
                          "training run will reach, and how to spend its computing.",
                          done()),
              "lead");
    if (!law_.study) {
      out_ += "<div class=\"box\">";
      paragraph("<strong>No law could be fitted.</strong> " + xml_text(law_.reason));
      out_ += "</div>\n";
      return;
    }
    const scaling::Study& s = *law_.study;
    std::string growth;
    if (!s.exponents.empty())
      growth = fmt::format(
          " With ten times the computing, make the model {:.1f} times as large and give it {:.1f} times "
          "as much text.",
          std::pow(10, s.exponents[0].value),
          std::pow(10, s.exponents.size() > 1 ? s.exponents[1].value : 1 - s.exponents[0].value));
    out_ += "<div class=\"box\">";
    paragraph(fmt::format("The law describes its {} runs with a typical error of <strong>{:.2f}%</strong>.{}", s.rows,
                          100 * s.fit->rms_log_error, growth));
    if (s.backtest.done)
      paragraph(fmt::format(
          "Back-test: without its largest budget ({} of the runs) it would have predicted that {:+.2f}% off on "
          "average, {:+.2f}% at worst.",
          s.backtest.held_out, 100 * s.backtest.mean_error, 100 * s.backtest.worst_error));
    for (const std::string& warning : s.warnings) paragraph("Careful: " + xml_text(warning));
    out_ += "</div>\n";
  }

  void decisions() {
    if (!law_.study || law_.study->decisions.empty()) return;
    heading("The decision");
    out_ += decision_html(input_, law_);
  }

  void held_out() {
    if (!input_.prediction) return;
    const HeldOutPrediction& p = *input_.prediction;
    heading("The test: a budget that was not in the ladder");
    for (const RunRecord& r : input_.records)
      if (r.kind == "held-out" && r.done()) {
        paragraph(
            fmt::format("Before it was trained, {} FLOP with a model of {} parameters ({}) was predicted to reach a "
                        "loss of <strong>{:.4f}</strong>, by {}. It reached <strong>{:.4f}</strong>: the prediction "
                        "was {:+.2f}% off.{}",
                        number(p.flops), number(p.n), xml_text(p.shape), p.loss, xml_text(p.basis), r.loss,
                        100 * (p.loss / r.loss - 1),
                        p.trend_loss > 0 ? fmt::format(" The plain trend of the best loss at each budget said {:.4f} "
                                                       "({:+.2f}%).",
                                                       p.trend_loss, 100 * (p.trend_loss / r.loss - 1))
                                         : ""));
        return;
      }
    paragraph(fmt::format("A loss of {:.4f} is predicted for {} FLOP with a {} model; it has not been trained yet.",
                          p.loss, number(p.flops), xml_text(p.shape)));
  }

  void law_section() {
    if (!law_.study) return;
    const scaling::Study& s = *law_.study;
    heading("The law");
    paragraph(
        "L = E + A/N<sup>α</sup> + B/D<sup>β</sup>: the loss that no model can avoid (E), what the model is too "
        "small for, and what it has not read enough for. The constants move together; trust the predictions, not "
        "single constants.");
    out_ += "<div class=\"scroll\"><table><tr><th>constant</th><th>value</th><th>95% by resampling runs</th></tr>\n";
    for (const scaling::Estimate& e : s.constants)
      out_ += fmt::format("<tr><td>{}</td><td>{:.5g}</td><td>{}</td></tr>\n", xml_text(e.name), e.value,
                          interval(e.bootstrap, "{:.4g}"));
    out_ += "</table></div>\n";
    const scaling::Certificate& c = s.fit->certificate;
    paragraph(fmt::format("Certificate: objective {:.6g}, gradient {:.1e}, {} of {} starting points agree{}.",
                          c.objective, c.gradient_norm, c.agreeing, c.starts,
                          c.at_bound.empty() ? "" : fmt::format(", at a bound: {}", fmt::join(c.at_bound, ", "))),
              "dim");
    if (s.noise)
      paragraph(
          fmt::format("Noise: the same run with another seed differs by {:.2f}% (one standard deviation, {} cell{}).",
                      100 * s.noise->log_sd, s.noise->cells, s.noise->cells == 1 ? "" : "s"),
          "dim");
  }

  void runs() {
    const CountColumns columns = columns_of(input_.spec);
    heading("The runs");
    out_ +=
        "<div class=\"scroll\"><table><tr><th>run</th><th>kind</th><th>N</th><th>tokens</th><th>FLOP</th><th>loss</th>"
        "<th>bits/byte</th><th>rate</th><th>time</th><th>outcome</th></tr>\n";
    for (const RunRecord& r : input_.records)
      out_ += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.4f}</td><td>{:.4f}</td><td>{:.2g}</td>"
          "<td>{}</td><td class=\"words\">{}</td></tr>\n",
          xml_text(r.run), xml_text(r.kind), number(record_number(r, columns.n)), number(r.tokens),
          number(record_number(r, columns.c)), r.loss, r.bits_per_byte, r.learning_rate,
          std::isfinite(r.seconds) ? time_text(r.seconds) : "-",
          r.done() ? "done" : xml_text(r.status + ": " + r.reason));
    out_ += "</table></div>\n";
  }

  void words() {
    heading("Words");
    out_ +=
        "<dl><dt>loss</dt><dd>How surprised the model is by the next token of text it has not seen, in nats; lower is "
        "better. Divided by ln 2 and by the bytes of a token it is bits per byte, which compares across "
        "tokenizers.</dd><dt>N, parameters</dt><dd>The numbers that training adjusts.</dd><dt>D, tokens</dt><dd>How "
        "much "
        "text the model reads while it trains, repetitions counted.</dd><dt>C, FLOP</dt><dd>Floating-point operations "
        "of "
        "training: the bill.</dd><dt>tokens per parameter</dt><dd>D/N. Large: a small model that has read a lot, cheap "
        "to "
        "use later. Small: a large one that has read little.</dd><dt>95%</dt><dd>Drawn again from runs like these, the "
        "figure would lie there 95 times out of 100. It knows the noise of the runs, not whether the law still holds "
        "far "
        "beyond them.</dd></dl>\n";
  }

  void provenance() {
    heading("Where this comes from");
    std::set<std::string> versions, corpora, precisions;
    double seconds = 0;
    for (const RunRecord& r : input_.records) {
      versions.insert(r.version), corpora.insert(r.corpus), precisions.insert(r.precision);
      seconds += std::isfinite(r.seconds) ? r.seconds : 0;
    }
    const CountColumns columns = columns_of(input_.spec);
    const auto list = [](const std::set<std::string>& all) {
      return xml_text(fmt::format("{}", fmt::join(all, "; ")));
    };
    paragraph(
        fmt::format("N is <code>{}</code>, C is <code>{}</code> of the table of records; losses are those of the "
                    "validation split at the end of each run, in nats per token. {} records, {} of training in all. "
                    "Programs: {}. Corpora: {}. Precision: {}. This page: {}.",
                    columns.n, columns.c, input_.records.size(), time_text(seconds), list(versions), list(corpora),
                    list(precisions), xml_text(input_.version)));
    out_ += fmt::format("<details><summary>The sweep's file</summary><pre>{}</pre></details>\n",
                        xml_text(input_.sweep_text));
  }

  const ReportInput& input_;
  const ReportLaw& law_;
  const std::vector<ReportFigure>& figures_;
  std::string out_;
};

}  // namespace

std::string decision_html(const ReportInput& input, const ReportLaw& law) {
  const SweepSpec::Decide& d = input.spec.decide;
  const double rate = d.gpu_flops * d.gpu_utilization;
  std::string out =
      "<div class=\"scroll\"><table><tr><th>budget (FLOP)</th><th>model N</th><th>tokens D</th><th>D/N</th>"
      "<th>loss</th><th>GPU-days</th><th>cost</th><th>memory</th></tr>\n";
  for (const scaling::BudgetDecision& b : law.study->decisions) {
    const double n = b.n ? b.n->value : 0, tokens = b.d ? b.d->value : 0, days = b.flops / rate / 86400;
    const double bytes = n * kBytesPerParameter, room = d.gpu_memory * 1e9 * static_cast<double>(d.gpus);
    out += fmt::format(
        "<tr><td>{}</td><td>{}{}</td><td>{}{}{}</td><td>{:.3g}</td><td>{:.4f}{}</td><td>{:.3g}{}</td>"
        "<td>{:.3g}</td><td>{}</td></tr>\n",
        number(b.flops), number(n), b.n ? count_interval(b.n->bootstrap) : "", number(tokens),
        b.d ? count_interval(b.d->bootstrap) : "",
        d.unique_tokens > 0 && tokens > d.unique_tokens ? fmt::format("<br>{:.1f} epochs", tokens / d.unique_tokens)
                                                        : "",
        tokens / n, b.loss.value,
        b.loss.bootstrap ? fmt::format("<br><span class=\"dim\">{:.3f} to {:.3f}</span>", b.loss.bootstrap->p95.low,
                                       b.loss.bootstrap->p95.high)
                         : "",
        days, fmt::format("<br><span class=\"dim\">{:.3g} days here</span>", days / static_cast<double>(d.gpus)),
        days * 24 * d.gpu_price, bytes > room ? "does not fit" : fmt::format("{:.0f}%", std::ceil(100 * bytes / room)));
  }
  out += "</table></div>\n";
  out += fmt::format(
      "<p class=\"dim\">Second lines are 95% intervals. On {} of {} at {} FLOP/s, of which training reaches {:.0f}%; "
      "{:g} an "
      "hour each, in your currency. Memory: weights, gradients and optimizer state ({} bytes a parameter) against what "
      "these have together.{}{}{}</p>\n",
      d.gpus, xml_text(d.gpu), number(d.gpu_flops), 100 * d.gpu_utilization, d.gpu_price, kBytesPerParameter,
      d.unique_tokens > 0
          ? fmt::format(" At most {} distinct tokens: more is reading them again.", number(d.unique_tokens))
          : "",
      d.inference_tokens > 0 ? fmt::format(" The budget also pays for serving {} tokens.", number(d.inference_tokens))
                             : "",
      law.study->decisions.back().beyond_data > 3
          ? fmt::format(
                " The largest budget is {:.0f} times what was measured; the further out, the less the intervals say.",
                law.study->decisions.back().beyond_data)
          : "");
  return out;
}

std::string report_html(const ReportInput& input, const ReportLaw& law, const std::vector<ReportFigure>& figures) {
  return Page(input, law, figures).html();
}

}  // namespace capstan
