#include "cluster/lab/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace capstan {

std::string xml_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n')
      out += c;
  }
  return out;
}

namespace {

std::string superscript(int value) {
  static const std::array<const char*, 10> digits = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = value < 0 ? "⁻" : "";
  for (const char c : std::to_string(std::abs(value))) out += digits[static_cast<size_t>(c - '0')];
  return out;
}

std::vector<double> log_ticks(double low, double high, int wanted) {
  const int first = static_cast<int>(std::floor(std::log10(low))), last = static_cast<int>(std::ceil(std::log10(high)));
  std::vector<double> ticks;
  for (const std::vector<double>& steps :
       {std::vector<double>{1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}, {1,   1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2,
                                                                                2.2, 2.4, 2.6, 2.8, 3,   3.5, 4,   4.5,
                                                                                5,   5.5, 6,   7,   8,   9}}) {
    ticks.clear();
    for (int e = first; e <= last; ++e)
      for (const double m : steps)
        if (const double tick = m * std::pow(10.0, e); tick >= low * 0.999 && tick <= high * 1.001)
          ticks.push_back(tick);
    if (static_cast<int>(ticks.size()) >= wanted) break;
  }
  const size_t stride = std::max<size_t>(1, ticks.size() / static_cast<size_t>(2 * wanted));
  std::vector<double> thin;
  for (size_t i = 0; i < ticks.size(); i += stride) thin.push_back(ticks[i]);
  return thin;
}

}  // namespace

std::vector<double> round_ticks(double low, double high, bool logarithmic, int wanted) {
  if (!(high > low)) return {low};
  if (logarithmic && high > 3 * low) return log_ticks(low, high, wanted);
  const double unit = std::pow(10.0, std::floor(std::log10((high - low) / wanted)));
  std::vector<double> ticks;
  for (const double m : {10.0, 5.0, 2.5, 2.0, 1.0, 0.5}) {
    const double step = m * unit;
    ticks.clear();
    for (int64_t i = std::llround(std::ceil(low / step)); static_cast<double>(i) * step <= high + 1e-9 * step; ++i)
      ticks.push_back(static_cast<double>(i) * step);
    if (static_cast<int>(ticks.size()) >= wanted - 1) break;
  }
  return ticks;
}

std::string tick_text(double value, bool logarithmic) {
  const double size = std::abs(value);
  if (value == 0 || (size >= 1e-3 && size < 1e4) || !logarithmic) return fmt::format("{:.4g}", value);
  const int exponent = static_cast<int>(std::floor(std::log10(size) + 1e-9));
  const double mantissa = value / std::pow(10.0, exponent);
  const std::string power = "10" + superscript(exponent);
  return std::abs(mantissa - 1) < 1e-6 ? power : fmt::format("{:.3g}·{}", mantissa, power);
}

namespace {

constexpr double kWidth = 800, kHeight = 430, kLeft = 74, kRight = 196, kTop = 34, kBottom = 56;
constexpr const char* kStyle =
    "<style>.chart{font:13px system-ui,-apple-system,'DejaVu Sans',sans-serif;--none:0}.chart .ink{fill:#1d2126}"
    ".chart .dim{fill:#5b636e}.chart .grid{stroke:#d9dde2;stroke-width:1}.chart .axis{stroke:#8a929c;stroke-width:1}"
    ".chart .ground{fill:#ffffff}.chart .text-line{stroke:#1d2126}.chart .text-fill{fill:#1d2126}"
    "@media (prefers-color-scheme: dark){.chart .ink{fill:#e8eaed}.chart .dim{fill:#a4acb6}"
    ".chart .grid{stroke:#333a42}.chart .axis{stroke:#717a85}.chart .ground{fill:#16191d}"
    ".chart .text-line{stroke:#e8eaed}.chart .text-fill{fill:#e8eaed}}</style>";

std::string colour(double shade) {
  static const std::array<std::array<int, 3>, 9> palette = {{{59, 111, 212},
                                                             {42, 159, 214},
                                                             {31, 170, 160},
                                                             {63, 166, 73},
                                                             {148, 158, 29},
                                                             {214, 150, 28},
                                                             {226, 112, 29},
                                                             {214, 66, 59},
                                                             {176, 52, 140}}};
  const double at = std::clamp(shade, 0.0, 1.0) * 8;
  const auto low = static_cast<size_t>(std::min(7.0, std::floor(at)));
  const double t = at - static_cast<double>(low);
  std::array<int, 3> mixed{};
  for (size_t c = 0; c < 3; ++c)
    mixed[c] = static_cast<int>(std::lround((1 - t) * palette[low][c] + t * palette[low + 1][c]));
  return fmt::format("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2]);
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart) : chart_(chart) {
    for (const ChartSeries& series : chart.series)
      for (const ChartPoint& p : series.points) {
        x_.include(p.x, chart.x_log);
        const bool bar = p.low < p.high;
        if (series.kind != ChartSeries::Kind::band) y_.include(p.y, chart.y_log);
        if (bar) y_.include(p.low, chart.y_log), y_.include(p.high, chart.y_log);
      }
    x_.widen(chart.x_log, 0.03);
    y_.widen(chart.y_log, 0.06);
  }

  std::string svg() {
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" "
        "role=\"img\" aria-label=\"{}\">{}<rect class=\"ground\" width=\"100%\" height=\"100%\"/>",
        kWidth, kHeight, kWidth, kHeight, xml_text(chart_.title), kStyle);
    text(kLeft, 20, "ink", "start", chart_.title, "font-weight=\"600\" font-size=\"15\"");
    axes();
    for (const ChartSeries& series : chart_.series) draw(series);
    legend();
    return out_ + "</svg>\n";
  }

 private:
  struct Span {
    double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
    void include(double v, bool logarithmic) {
      if (!std::isfinite(v) || (logarithmic && !(v > 0))) return;
      low = std::min(low, v), high = std::max(high, v);
    }
    void widen(bool logarithmic, double share) {
      if (!(low <= high)) low = 1, high = 2;
      if (low == high) low *= low > 0 ? 0.9 : 1.1, high *= high > 0 ? 1.1 : 0.9, high += low == high ? 1 : 0;
      if (logarithmic) {
        const double factor = std::pow(high / low, share);
        low /= factor, high *= factor;
      } else {
        const double room = share * (high - low);
        low -= room, high += room;
      }
    }
    double share(double v, bool logarithmic) const {
      return logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    }
  };

  double px(double x) const { return kLeft + (kWidth - kLeft - kRight) * x_.share(x, chart_.x_log); }
  double py(double y) const { return kHeight - kBottom - (kHeight - kTop - kBottom) * y_.share(y, chart_.y_log); }
  bool shown(const ChartPoint& p) const {
    return std::isfinite(p.x) && std::isfinite(p.y) && (!chart_.x_log || p.x > 0) && (!chart_.y_log || p.y > 0);
  }

  void text(double x, double y, const char* kind, const char* anchor, const std::string& words,
            const std::string& more = "") {
    out_ += fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>", kind, x, y,
                        anchor, more, xml_text(words));
  }
  void line(const char* kind, double x1, double y1, double x2, double y2, const std::string& more = "") {
    out_ += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>", kind, x1, y1,
                        x2, y2, more);
  }

  void axes() {
    const double bottom = kHeight - kBottom, right = kWidth - kRight;
    for (const double tick : round_ticks(x_.low, x_.high, chart_.x_log, 4)) {
      line("grid", px(tick), kTop, px(tick), bottom);
      text(px(tick), bottom + 18, "dim", "middle", tick_text(tick, chart_.x_log));
    }
    for (const double tick : round_ticks(y_.low, y_.high, chart_.y_log, 5)) {
      line("grid", kLeft, py(tick), right, py(tick));
      text(kLeft - 8, py(tick) + 4, "dim", "end", tick_text(tick, chart_.y_log));
    }
    line("axis", kLeft, bottom, right, bottom);
    line("axis", kLeft, kTop, kLeft, bottom);
    text((kLeft + right) / 2, kHeight - 12, "ink", "middle", chart_.x_label);
    const double middle = (kTop + bottom) / 2;
    text(18, middle, "ink", "middle", chart_.y_label, fmt::format("transform=\"rotate(-90 18 {:.1f})\"", middle));
  }

  /// Attributes of a mark, in the palette or in the colour of text.
  static std::string stroke(const ChartSeries& s) {
    return s.shade < 0 ? "class=\"text-line\"" : fmt::format("stroke=\"{}\"", colour(s.shade));
  }
  static std::string fill(const ChartSeries& s) {
    return s.shade < 0 ? "class=\"text-fill\"" : fmt::format("fill=\"{}\"", colour(s.shade));
  }

  void draw(const ChartSeries& series) {
    if (series.kind == ChartSeries::Kind::band) return band(series);
    if (series.kind == ChartSeries::Kind::points) return points(series);
    std::string path;
    for (const ChartPoint& p : series.points)
      if (shown(p)) path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", px(p.x), py(p.y));
    out_ += fmt::format("<polyline points=\"{}\" fill=\"none\" {} stroke-width=\"1.8\"{}/>", path, stroke(series),
                        series.kind == ChartSeries::Kind::dashed ? " stroke-dasharray=\"5 4\"" : "");
  }

  void band(const ChartSeries& series) {
    std::string there, back;
    for (const ChartPoint& p : series.points) {
      if (!std::isfinite(p.low) || !std::isfinite(p.high) || (chart_.y_log && !(p.low > 0))) continue;
      there += fmt::format("{:.1f},{:.1f} ", px(p.x), py(p.high));
      back = fmt::format("{:.1f},{:.1f} ", px(p.x), py(p.low)) + back;
    }
    out_ += fmt::format("<polygon points=\"{}{}\" {} fill-opacity=\"0.18\"/>", there, back, fill(series));
  }

  void points(const ChartSeries& series) {
    for (const ChartPoint& p : series.points) {
      if (!shown(p)) continue;
      if (p.low < p.high)
        out_ +=
            fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" {3} stroke-width=\"1.4\"/>",
                        px(p.x), py(p.low), py(p.high), stroke(series));
      out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" {}><title>{}</title></circle>", px(p.x), py(p.y),
                          fill(series), xml_text(p.note));
    }
  }

  void legend() {
    double y = kTop + 6;
    const double x = kWidth - kRight + 16;
    if (!chart_.legend_title.empty()) text(x, y + 4, "dim", "start", chart_.legend_title), y += 20;
    for (const ChartSeries& series : chart_.series) {
      if (series.name.empty()) continue;
      if (series.kind == ChartSeries::Kind::points)
        out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" {}/>", x + 9, y, fill(series));
      else if (series.kind == ChartSeries::Kind::band)
        out_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"18\" height=\"10\" {} fill-opacity=\"0.25\"/>", x,
                            y - 5, fill(series));
      else
        out_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {} stroke-width=\"2\"{}/>",
                            x, y, x + 18, y, stroke(series),
                            series.kind == ChartSeries::Kind::dashed ? " stroke-dasharray=\"5 4\"" : "");
      text(x + 24, y + 4, "ink", "start", series.name);
      y += 19;
    }
  }

  const Chart& chart_;
  Span x_, y_;
  std::string out_;
};

}  // namespace

std::string svg_of(const Chart& chart) { return Drawing(chart).svg(); }

}  // namespace capstan
