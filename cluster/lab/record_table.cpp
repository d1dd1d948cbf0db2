#include "cluster/lab/record_table.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"

namespace capstan {

namespace {

bool is_fitted_kind(const std::string& kind) { return kind != "search" && kind != "trunk" && kind != "held-out"; }

size_t column_at(const scaling::Csv& table, const char* name) {
  return static_cast<size_t>(std::find(table.header.begin(), table.header.end(), name) - table.header.begin());
}

}  // namespace

bool is_fitted(const RunRecord& record) {
  return record.done() && std::isfinite(record.loss) && is_fitted_kind(record.kind);
}

double record_number(const RunRecord& record, const std::string& column) {
  for (const RecordField& field : record_fields()) {
    if (column != field.name) continue;
    if (const auto* i = std::get_if<int64_t RunRecord::*>(&field.member)) return static_cast<double>(record.**i);
    if (const auto* d = std::get_if<double RunRecord::*>(&field.member)) return record.**d;
  }
  throw Error::make(ExitCode::usage, "records have no column of numbers called '{}'", column);
}

scaling::Measurements measurements_of(const std::vector<RunRecord>& records, const TableColumns& columns,
                                      const std::string& where) {
  scaling::Measurements table;
  std::vector<std::string> names;
  // In the order of their names, not in that in which runs happened to end: a fit has the same bits either way.
  std::vector<const RunRecord*> fitted;
  for (const RunRecord& record : records)
    if (is_fitted(record)) fitted.push_back(&record);
  std::stable_sort(fitted.begin(), fitted.end(), [](const auto* a, const auto* b) { return a->run < b->run; });
  for (const RunRecord* one : fitted) {
    const RunRecord& record = *one;
    table.parameters.push_back(record_number(record, columns.n));
    table.tokens.push_back(record.tokens);
    table.flops.push_back(record_number(record, columns.c));
    table.loss.push_back(record_number(record, columns.loss));
    table.unique.push_back(record.unique_tokens);
    table.seed.push_back(static_cast<int>(record.seed));
    names.push_back(fmt::format("{}: run {}", where, record.run));
  }
  if (table.loss.empty())
    throw Error::make(ExitCode::bad_data, "{}: none of the {} records is of a finished run that a law is fitted to",
                      where, records.size());
  return scaling::checked(std::move(table), names);
}

scaling::Csv csv_of(const std::vector<RunRecord>& records, const std::string& where) {
  std::vector<RunRecord> fitted;
  for (const RunRecord& record : records)
    if (is_fitted(record)) fitted.push_back(record);
  if (fitted.empty())
    throw Error::make(ExitCode::bad_data, "{}: none of the {} records is of a finished run that a law is fitted to",
                      where, records.size());
  return scaling::parse_csv(records_csv(fitted), where);
}

bool is_record_table(const scaling::Csv& table) {
  constexpr const char* kNeeded[] = {"run",    "kind",       "status", "n_total",
                                     "tokens", "flops_half", "loss",   "unique_tokens"};
  return std::all_of(std::begin(kNeeded), std::end(kNeeded),
                     [&](const char* name) { return column_at(table, name) < table.header.size(); });
}

scaling::Csv fitted_rows(scaling::Csv table, const std::string& where) {
  const size_t kind = column_at(table, "kind"), status = column_at(table, "status"), loss = column_at(table, "loss");
  scaling::Csv kept{table.header, {}, {}};
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const std::vector<std::string>& row = table.rows[i];
    if (row[status] != "done" || !is_fitted_kind(row[kind]) || row[loss].empty()) continue;
    kept.rows.push_back(row);
    kept.lines.push_back(table.lines[i]);
  }
  if (kept.rows.empty())
    throw Error::make(ExitCode::bad_data, "{}: none of the {} records is of a finished run that a law is fitted to",
                      where, table.rows.size());
  return kept;
}

scaling::ColumnNames with_store_names(scaling::ColumnNames names) {
  const auto prefer = [](std::string& name, const char* column) {
    if (name.empty()) name = column;
  };
  prefer(names.parameters, "n_total");
  prefer(names.tokens, "tokens");
  prefer(names.loss, "loss");
  prefer(names.flops, "flops_half");
  prefer(names.run, "run");
  prefer(names.seed, "seed");
  prefer(names.unique, "unique_tokens");
  return names;
}

}  // namespace capstan
