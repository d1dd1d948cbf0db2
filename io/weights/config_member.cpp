#include "io/weights/config_member.h"

#include <fmt/format.h>

#include "io/printable.h"
#include "io/weights/family_rows.h"

namespace capstan {

ConfigMember find_config_member(const JsonValue& root, std::string_view alternatives) {
  ConfigMember member;
  for (std::string& path : split_at(alternatives, '|')) {
    const bool null_is_none = path.front() == '?';
    if (null_is_none) path.erase(0, 1);
    const JsonValue* at = &root;
    for (const std::string& name : split_at(path, '.')) at = at ? at->find(name) : nullptr;
    member.path = path;
    if (at == nullptr || (null_is_none && is_json_null(*at))) continue;
    member.value = at;
    break;
  }
  return member;
}

bool is_json_null(const JsonValue& value) { return std::holds_alternative<std::nullptr_t>(value.content()); }

std::string json_word(const JsonValue& value) {
  const JsonValue::Content& content = value.content();
  if (const auto* flag = std::get_if<bool>(&content)) return *flag ? "true" : "false";
  if (const auto* text = std::get_if<std::string>(&content)) return *text;
  if (const auto* count = std::get_if<uint64_t>(&content)) return fmt::format("{}", *count);
  if (const auto* negative = std::get_if<int64_t>(&content)) return fmt::format("{}", *negative);
  if (const auto* real = std::get_if<double>(&content)) return fmt::format("{}", *real);
  if (is_json_null(value)) return "null";
  return std::holds_alternative<JsonValue::Array>(content) ? "a list" : "an object";
}

std::string shown_json(const JsonValue& value) {
  const std::string word = json_word(value).substr(0, 80);
  return std::holds_alternative<std::string>(value.content()) ? printable(json_quote(word), 6 * 80 + 2) : word;
}

std::optional<double> json_number(const JsonValue& value) {
  const JsonValue::Content& content = value.content();
  if (const auto* count = std::get_if<uint64_t>(&content)) return static_cast<double>(*count);
  if (const auto* negative = std::get_if<int64_t>(&content)) return static_cast<double>(*negative);
  if (const auto* real = std::get_if<double>(&content)) return *real;
  return std::nullopt;
}

}  // namespace capstan
