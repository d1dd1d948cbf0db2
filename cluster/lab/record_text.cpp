// Records as CSV and JSON.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

#include "cluster/lab/record.h"

namespace capstan {

namespace json = boost::json;

namespace {

std::string csv_text(const std::string& value) {
  if (value.find_first_of(",\"\r\n") == std::string::npos) return value;
  std::string out = "\"";
  for (const char c : value) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + '"';
}

std::string csv_field(const RunRecord& record, const RecordField& field) {
  if (const auto* t = std::get_if<std::string RunRecord::*>(&field.member)) return csv_text(record.**t);
  if (const auto* i = std::get_if<int64_t RunRecord::*>(&field.member)) return fmt::format("{}", record.**i);
  const double value = record.*std::get<double RunRecord::*>(field.member);
  return std::isfinite(value) ? fmt::format("{}", value) : "";
}

json::value json_field(const RunRecord& record, const RecordField& field) {
  if (const auto* t = std::get_if<std::string RunRecord::*>(&field.member)) return json::value(record.**t);
  if (const auto* i = std::get_if<int64_t RunRecord::*>(&field.member)) return json::value(record.**i);
  const double value = record.*std::get<double RunRecord::*>(field.member);
  return std::isfinite(value) ? json::value(value) : json::value(nullptr);
}

json::object object_of(const RunRecord& record) {
  json::object out;
  for (const RecordField& field : record_fields()) out[field.name] = json_field(record, field);
  return out;
}

}  // namespace

std::string records_csv(const std::vector<RunRecord>& records) {
  std::string out;
  for (const RecordField& field : record_fields()) out += (out.empty() ? "" : ",") + std::string(field.name);
  out += '\n';
  for (const RunRecord& record : records) {
    std::string line;
    bool first = true;
    for (const RecordField& field : record_fields()) {
      line += (first ? "" : ",") + csv_field(record, field);
      first = false;
    }
    out += line + '\n';
  }
  return out;
}

std::string records_json(const std::vector<RunRecord>& records) {
  json::object fields;
  for (const RecordField& field : record_fields())
    fields[field.name] = {{"unit", field.unit}, {"meaning", field.sentence}};
  json::array rows;
  for (const RunRecord& record : records) rows.push_back(object_of(record));
  return json::serialize(json::object{{"fields", fields}, {"records", rows}}) + "\n";
}

std::string record_json(const RunRecord& record) { return json::serialize(object_of(record)) + "\n"; }

}  // namespace capstan
