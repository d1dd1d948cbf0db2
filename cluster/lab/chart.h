#pragma once
// A chart as SVG text: axes with round ticks, linear or logarithmic; points, lines, bands and error bars; a legend to
// the right; a tooltip on every point. It carries its own colours for light and dark pages and needs nothing from
// outside, so the same text stands in a page, alone in a file, and goes through a rasteriser.

#include <optional>
#include <string>
#include <vector>

namespace capstan {

struct ChartPoint {
  double x = 0, y = 0;
  std::string note;          ///< tooltip
  double low = 0, high = 0;  ///< error bar where low < high
};

struct ChartSeries {
  enum class Kind { line, dashed, points, band };
  Kind kind = Kind::points;
  std::string name;                ///< in the legend; empty: not there
  double shade = 0;                ///< 0 to 1 along the palette; below 0: the colour of text
  std::vector<ChartPoint> points;  ///< band: between low and high
};

struct Chart {
  std::string title, x_label, y_label;
  bool x_log = false, y_log = false;
  std::vector<ChartSeries> series;
  std::string legend_title;
};

std::string svg_of(const Chart& chart);

/// Ticks that a person would choose within [low, high].
std::vector<double> round_ticks(double low, double high, bool logarithmic, int wanted);
/// "3·10¹¹", "0.25", "20000": for axes.
std::string tick_text(double value, bool logarithmic);
/// Text between tags.
std::string xml_text(const std::string& text);

}  // namespace capstan
