#include "core/config/key.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace capstan {

namespace {

/// A bound as a person writes it: 16777216, 0.5, never 1.6777216e+07.
std::string bound(double x) {
  return std::floor(x) == x && std::abs(x) < 1e15 ? fmt::format("{:.0f}", x) : fmt::format("{}", x);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\u{:04X}", byte);
    else
      out += c;
  }
  return out + '"';
}

std::string real_text(double x) {
  std::string text = fmt::format("{}", x);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

struct ToToml {
  std::string operator()(bool x) const { return x ? "true" : "false"; }
  std::string operator()(int64_t x) const { return fmt::format("{}", x); }
  std::string operator()(double x) const { return real_text(x); }
  std::string operator()(const std::string& x) const { return quoted(x); }
  std::string operator()(const std::vector<double>& list) const {
    std::string out = "[";
    for (const double item : list) out += (out.size() > 1 ? ", " : "") + real_text(item);
    return out + "]";
  }
  std::string operator()(const std::vector<std::string>& list) const {
    std::string out = "[";
    for (const std::string& item : list) out += (out.size() > 1 ? ", " : "") + quoted(item);
    return out + "]";
  }
};

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) out += (i == 0 ? "" : i + 1 < names.size() ? ", " : " or ") + names[i];
  return out;
}

bool has_zero_byte(const std::string& text) { return text.find('\0') != std::string::npos; }

}  // namespace

bool Range::holds(double x) const {
  return std::isfinite(x) && (minimum_excluded ? x > minimum : x >= minimum) &&
         (maximum_excluded ? x < maximum : x <= maximum);
}

std::string Range::text() const {
  const bool low = minimum > std::numeric_limits<double>::lowest();
  const bool high = maximum < 2e9;  // the limit of an int or of exact doubles is not worth a word
  const char* before = minimum_excluded ? "above" : high ? "from" : "at least";
  std::string out = low ? fmt::format("{} {}", before, bound(minimum)) : "";
  if (high) out += fmt::format("{}{} {}", low ? " " : "", maximum_excluded ? "to below" : "to", bound(maximum));
  return out;
}

std::string Key::wanted() const {
  const std::string numbers = range.text().empty() ? "" : ", " + range.text();
  switch (type) {
    case KeyType::boolean:
      return "true or false";
    case KeyType::integer:
      return "an integer" + numbers;
    case KeyType::real:
      return "a number" + numbers;
    case KeyType::text:
      return "a string";
    case KeyType::choice:
      return joined(choices);
    case KeyType::text_list:
      return "a list of strings";
    case KeyType::number_list:
      return "a number or a list of numbers" + numbers;
    case KeyType::choice_or_count:
      return joined(choices) + ", or an integer" + numbers;
  }
  return "";
}

bool Key::accepts(const ConfigValue& value) const {
  switch (type) {
    case KeyType::boolean:
      return std::holds_alternative<bool>(value);
    case KeyType::integer:
      return std::holds_alternative<int64_t>(value) && range.holds(static_cast<double>(std::get<int64_t>(value)));
    case KeyType::real:
      return std::holds_alternative<double>(value) && range.holds(std::get<double>(value));
    case KeyType::text:
      return std::holds_alternative<std::string>(value) && !has_zero_byte(std::get<std::string>(value));
    case KeyType::choice:
      return std::holds_alternative<std::string>(value) &&
             std::find(choices.begin(), choices.end(), std::get<std::string>(value)) != choices.end();
    case KeyType::text_list: {
      const auto* list = std::get_if<std::vector<std::string>>(&value);
      return list && std::none_of(list->begin(), list->end(),
                                  [](const std::string& item) { return item.empty() || has_zero_byte(item); });
    }
    case KeyType::number_list: {
      const auto* list = std::get_if<std::vector<double>>(&value);
      return list && std::all_of(list->begin(), list->end(), [this](double item) { return range.holds(item); });
    }
    case KeyType::choice_or_count:
      if (const auto* count = std::get_if<int64_t>(&value)) return range.holds(static_cast<double>(*count));
      return std::holds_alternative<std::string>(value) &&
             std::find(choices.begin(), choices.end(), std::get<std::string>(value)) != choices.end();
  }
  return false;
}

std::string to_toml(const ConfigValue& value) { return std::visit(ToToml{}, value); }

}  // namespace capstan
