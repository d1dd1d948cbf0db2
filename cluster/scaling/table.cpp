#include "cluster/scaling/table.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <map>

#include "core/error.h"

namespace capstan::scaling {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

size_t column_of(const Csv& csv, const std::string& column, const std::string& name) {
  const auto found = std::find(csv.header.begin(), csv.header.end(), column);
  if (found == csv.header.end())
    throw Error::make(ExitCode::usage, "{} has no column '{}'; it has: {}", name, column, fmt::join(csv.header, ", "));
  if (std::count(csv.header.begin(), csv.header.end(), column) > 1)
    throw Error::make(ExitCode::bad_data, "{}: column '{}' stands twice in the header", name, column);
  return static_cast<size_t>(found - csv.header.begin());
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

double number(const std::string& field, const std::string& where) {
  const std::string text = trimmed(field);
  const char* begin = text.c_str();
  if (*begin == '+' && begin[1] != '-' && begin[1] != '+') ++begin;  // from_chars knows no plus sign
  double value = 0;
  const auto [end, problem] = std::from_chars(begin, text.c_str() + text.size(), value);
  if (text.empty() || problem != std::errc() || end != text.c_str() + text.size() || !std::isfinite(value))
    throw Error::make(ExitCode::bad_data, "{}: '{}' is not a finite number", where, text.substr(0, 40));
  return value;
}

std::vector<double> numbers(const Csv& csv, const std::string& column, const std::string& name) {
  if (column.empty()) return {};
  const size_t at = column_of(csv, column, name);
  std::vector<double> out;
  for (size_t i = 0; i < csv.rows.size(); ++i)
    out.push_back(number(csv.rows[i][at], fmt::format("{}:{}: column '{}'", name, csv.lines[i], column)));
  return out;
}

std::vector<int> labels(const Csv& csv, const std::string& column, const std::string& name) {
  if (column.empty()) return {};
  const size_t at = column_of(csv, column, name);
  std::map<std::string, int> seen;
  std::vector<int> out;
  for (const std::vector<std::string>& row : csv.rows)
    out.push_back(seen.emplace(row[at], static_cast<int>(seen.size())).first->second);
  return out;
}

}  // namespace

ColumnNames with_usual_names(ColumnNames names, const std::vector<std::string>& header) {
  const auto look = [&](std::string& name, std::initializer_list<const char*> usual) {
    if (!name.empty()) return;
    for (const char* candidate : usual)
      for (const std::string& column : header)
        if (name.empty() && lower(trimmed(column)) == candidate) name = column;
  };
  look(names.parameters, {"n", "params", "parameters", "n_params", "model size"});
  look(names.tokens, {"d", "tokens", "n_tokens", "training tokens"});
  look(names.loss, {"loss", "l", "val_loss", "validation_loss"});
  look(names.flops, {"c", "flops", "flop", "compute", "training flop", "training flops"});
  look(names.run, {"run", "run_id"});
  look(names.seed, {"seed"});
  look(names.weight, {"weight"});
  look(names.unique, {"unique", "unique_tokens"});
  if (names.loss.empty())
    throw Error::make(ExitCode::usage, "which column is the loss? name it with --loss; the table has: {}",
                      fmt::join(header, ", "));
  return names;
}

Measurements measurements_from(const Csv& csv, const ColumnNames& columns, const std::string& name) {
  if (csv.rows.empty()) throw Error::make(ExitCode::bad_data, "{} has a header but no rows", name);
  Measurements out;
  out.loss = numbers(csv, columns.loss, name);
  out.parameters = numbers(csv, columns.parameters, name);
  out.tokens = numbers(csv, columns.tokens, name);
  out.flops = numbers(csv, columns.flops, name);
  out.weight = numbers(csv, columns.weight, name);
  out.unique = numbers(csv, columns.unique, name);
  out.run = labels(csv, columns.run, name);
  out.seed = labels(csv, columns.seed, name);
  std::vector<std::string> where;
  for (const size_t line : csv.lines) where.push_back(fmt::format("{}:{}", name, line));
  return checked(std::move(out), where);
}

}  // namespace capstan::scaling
