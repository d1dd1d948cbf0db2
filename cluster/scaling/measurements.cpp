#include "cluster/scaling/measurements.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"

namespace capstan::scaling {
namespace {

using Names = std::vector<std::string>;

std::string where(const Names& names, size_t row) {
  return row < names.size() ? names[row] : fmt::format("row {}", row + 1);
}

void check_column(const std::vector<double>& column, const char* what, size_t rows, const Names& names) {
  if (column.size() != rows)
    throw Error::make(ExitCode::bad_data, "the table has {} losses but {} values of {}", rows, column.size(), what);
  for (size_t i = 0; i < rows; ++i)
    if (!std::isfinite(column[i]) || !(column[i] > 0) || column[i] > 1e300 || column[i] < 1e-300)
      throw Error::make(ExitCode::bad_data, "{}: {} is {}; wanted a finite number above zero", where(names, i), what,
                        column[i]);
}

void fill_flops_and_tokens(Measurements& m) {
  const size_t rows = m.size();
  m.flops_measured = !m.flops.empty();
  m.has_parameters = !m.parameters.empty();
  m.has_tokens = !m.tokens.empty();
  if (!m.has_parameters) m.parameters.assign(rows, 1);
  if (!m.has_tokens && m.flops_measured && m.has_parameters) {
    m.tokens.resize(rows);
    for (size_t i = 0; i < rows; ++i) m.tokens[i] = m.flops[i] / (6 * m.parameters[i]);
    m.has_tokens = true;
  }
  if (m.tokens.empty()) m.tokens.assign(rows, 1);
  if (m.flops_measured) return;
  m.flops.resize(rows);
  for (size_t i = 0; i < rows; ++i) m.flops[i] = 6 * m.parameters[i] * m.tokens[i];
}

}  // namespace

int Measurements::runs() const { return run.empty() ? 0 : 1 + *std::max_element(run.begin(), run.end()); }

Measurements checked(Measurements m, const Names& names) {
  const size_t rows = m.size();
  check_column(m.loss, "the loss", rows, names);
  if (!m.parameters.empty()) check_column(m.parameters, "N", rows, names);
  if (!m.tokens.empty()) check_column(m.tokens, "D", rows, names);
  if (!m.flops.empty()) check_column(m.flops, "FLOP", rows, names);
  fill_flops_and_tokens(m);
  check_column(m.tokens, "D", rows, names);
  check_column(m.flops, "FLOP", rows, names);
  if (m.weight.empty()) m.weight.assign(rows, 1);
  check_column(m.weight, "the weight", rows, names);
  if (!m.unique.empty()) check_column(m.unique, "unique tokens", rows, names);
  if (m.run.empty()) {
    m.run.resize(rows);
    std::iota(m.run.begin(), m.run.end(), 0);
  }
  if (m.run.size() != rows || (!m.seed.empty() && m.seed.size() != rows))
    throw Error::make(ExitCode::bad_data, "the table has {} losses but {} runs and {} seeds", rows, m.run.size(),
                      m.seed.size());
  return m;
}

Measurements rows_of(const Measurements& all, const std::vector<size_t>& rows) {
  Measurements out;
  out.has_parameters = all.has_parameters;
  out.has_tokens = all.has_tokens;
  out.flops_measured = all.flops_measured;
  std::map<int, int> runs;  // numbered anew, so that runs() counts those that are here
  for (const size_t i : rows) {
    out.parameters.push_back(all.parameters[i]);
    out.tokens.push_back(all.tokens[i]);
    out.loss.push_back(all.loss[i]);
    out.flops.push_back(all.flops[i]);
    out.weight.push_back(all.weight[i]);
    if (!all.unique.empty()) out.unique.push_back(all.unique[i]);
    if (!all.seed.empty()) out.seed.push_back(all.seed[i]);
    out.run.push_back(runs.emplace(all.run[i], static_cast<int>(runs.size())).first->second);
  }
  return out;
}

Measurements without_largest_losses(const Measurements& all, size_t count) {
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all.loss[a] < all.loss[b]; });
  order.resize(order.size() - std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return rows_of(all, order);
}

std::vector<std::vector<size_t>> groups_of(const std::vector<double>& key, double factor) {
  std::vector<size_t> order(key.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key[a] < key[b]; });
  std::vector<std::vector<size_t>> groups;
  for (const size_t i : order) {
    if (groups.empty() || key[i] > key[groups.back().front()] * factor) groups.emplace_back();
    groups.back().push_back(i);
  }
  return groups;
}

size_t distinct(const std::vector<double>& values) { return groups_of(values, 1 + 1e-6).size(); }

double Noise::at(double log_loss) const { return log_sd * std::exp(loss_power * (log_loss - centre)); }

namespace {

struct Cell {
  double log_loss, variance;
  size_t degrees;
};

std::vector<Cell> replicated_cells(const Measurements& m) {
  std::map<std::pair<double, double>, std::vector<size_t>> by_place;
  for (size_t i = 0; i < m.size(); ++i) by_place[{m.parameters[i], m.tokens[i]}].push_back(i);
  std::vector<Cell> cells;
  for (const auto& [place, rows] : by_place) {
    std::set<int> runs;
    for (const size_t i : rows) runs.insert(m.run[i]);
    if (runs.size() < 2) continue;
    double mean = 0, square = 0;
    for (const size_t i : rows) mean += std::log(m.loss[i]) / static_cast<double>(rows.size());
    for (const size_t i : rows) square += std::pow(std::log(m.loss[i]) - mean, 2);
    cells.push_back({mean, square / static_cast<double>(rows.size() - 1), rows.size() - 1});
  }
  return cells;
}

/// Slope of ln(sd) over ln(loss), cells weighted by their degrees of freedom.
double power_of(const std::vector<Cell>& cells, double centre) {
  double xx = 0, xy = 0, y_mean = 0, total = 0;
  for (const Cell& c : cells) {
    y_mean += static_cast<double>(c.degrees) * std::log(c.variance) / 2;
    total += static_cast<double>(c.degrees);
  }
  y_mean /= total;
  for (const Cell& c : cells) {
    const double x = c.log_loss - centre, weight = static_cast<double>(c.degrees);
    xx += weight * x * x;
    xy += weight * x * (std::log(c.variance) / 2 - y_mean);
  }
  return xx > 1e-4 * total ? xy / xx : 0;
}

}  // namespace

Noise replicate_noise(const Measurements& all) {
  std::vector<Cell> cells = replicated_cells(all);
  Noise noise;
  noise.cells = cells.size();
  double square = 0;
  for (const Cell& c : cells) {
    noise.degrees += c.degrees;
    square += c.variance * static_cast<double>(c.degrees);
    noise.centre += c.log_loss / static_cast<double>(cells.size());
  }
  if (noise.degrees == 0) return noise;
  noise.log_sd = std::sqrt(square / static_cast<double>(noise.degrees));
  std::erase_if(cells, [](const Cell& c) { return !(c.variance > 0); });
  if (cells.size() >= 4 && noise.degrees >= 8) noise.loss_power = power_of(cells, noise.centre);
  return noise;
}

Measurements weighted_by(const Noise& noise, Measurements all) {
  if (noise.degrees == 0 || !(noise.log_sd > 0))
    throw Error::make(ExitCode::bad_data,
                      "weights were asked from replicate noise, but no pair of N and D was measured by two runs with "
                      "different losses; repeat one cheap cell with 3 seeds, or name a column of weights");
  double sum = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    all.weight[i] /= std::pow(noise.at(std::log(all.loss[i])), 2);
    sum += all.weight[i];
  }
  for (double& weight : all.weight) weight *= static_cast<double>(all.size()) / sum;
  return all;
}

}  // namespace capstan::scaling
