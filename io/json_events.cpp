#include "io/json_events.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "io/printable.h"

namespace capstan {
namespace {

namespace json = boost::json;
using json::error_code;

Error bad(std::string_view where, const std::string& why) {
  return Error::make(ExitCode::bad_data, "{}: {}", where, why);
}

/// Boost's handler: joins the parts of split tokens, applies the limits, passes whole tokens on.
class Handler {
 public:
  static constexpr size_t max_array_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_object_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_string_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_key_size = std::numeric_limits<size_t>::max();

  Handler(std::string_view where, const JsonLimits& limits, JsonEvents& events)
      : where_(where), limits_(limits), events_(events) {}

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_comment_part(json::string_view, error_code&) { return true; }
  bool on_comment(json::string_view, error_code&) { return true; }

  bool on_object_begin(error_code&) {
    one_more();
    names_.emplace_back();
    events_.object_begin();
    return true;
  }
  bool on_object_end(size_t, error_code&) {
    names_.pop_back();
    events_.object_end();
    return true;
  }
  bool on_array_begin(error_code&) {
    one_more();
    events_.array_begin();
    return true;
  }
  bool on_array_end(size_t, error_code&) {
    events_.array_end();
    return true;
  }

  bool on_key_part(json::string_view s, size_t n, error_code&) { return join(s, n, limits_.key_bytes, "name"); }
  bool on_key(json::string_view s, size_t n, error_code&) {
    join(s, n, limits_.key_bytes, "name");
    if (!names_.back().insert(token_).second)
      throw bad(where_, fmt::format("the name '{}' appears twice", printable(token_)));
    events_.key(token_);
    token_.clear();
    return true;
  }
  bool on_string_part(json::string_view s, size_t n, error_code&) { return join(s, n, limits_.string_bytes, "string"); }
  bool on_string(json::string_view s, size_t n, error_code&) {
    one_more();
    join(s, n, limits_.string_bytes, "string");
    events_.text(token_);
    token_.clear();
    return true;
  }

  bool on_number_part(json::string_view s, error_code&) { return join(s, token_.size() + s.size(), 4096, "number"); }
  bool on_int64(int64_t value, json::string_view, error_code&) {
    one_more();
    token_.clear();
    value < 0 ? events_.negative(value) : events_.count(static_cast<uint64_t>(value));
    return true;
  }
  bool on_uint64(uint64_t value, json::string_view, error_code&) {
    one_more();
    token_.clear();
    events_.count(value);
    return true;
  }
  bool on_double(double, json::string_view s, error_code&) {
    one_more();
    join(s, token_.size() + s.size(), 4096, "number");
    double value = 0;
    const auto [end, problem] = std::from_chars(token_.data(), token_.data() + token_.size(), value);
    if (problem != std::errc() || end != token_.data() + token_.size())
      throw bad(where_, fmt::format("the number {} does not fit a double", printable(token_)));
    events_.real(value);
    token_.clear();
    return true;
  }
  bool on_bool(bool value, error_code&) {
    one_more();
    events_.boolean(value);
    return true;
  }
  bool on_null(error_code&) {
    one_more();
    events_.null();
    return true;
  }

 private:
  void one_more() {
    if (++values_ > limits_.values)
      throw bad(where_, fmt::format("wanted at most {} values, got more", limits_.values));
  }
  bool join(json::string_view part, size_t total, size_t limit, const char* what) {
    if (total > limit)
      throw bad(where_, fmt::format("wanted a {} of at most {} bytes, got a longer one: '{}'", what, limit,
                                    printable(token_.empty() ? std::string_view(part.data(), part.size()) : token_)));
    token_.append(part.data(), part.size());
    return true;
  }

  std::string_view where_;
  const JsonLimits& limits_;
  JsonEvents& events_;
  std::string token_;
  std::vector<std::set<std::string>> names_;
  size_t values_ = 0;
};

/// Builds a JsonValue from events.
class TreeBuilder : public JsonEvents {
 public:
  JsonValue take() { return std::move(root_); }
  void object_begin() override { open(JsonValue::Object{}); }
  void array_begin() override { open(JsonValue::Array{}); }
  void object_end() override { open_.pop_back(); }
  void array_end() override { open_.pop_back(); }
  void key(std::string_view name) override { key_ = name; }
  void text(std::string_view value) override { put(std::string(value)); }
  void count(uint64_t value) override { put(value); }
  void negative(int64_t value) override { put(value); }
  void real(double value) override { put(value); }
  void boolean(bool value) override { put(value); }
  void null() override { put(nullptr); }

 private:
  JsonValue* put(JsonValue::Content content) {
    JsonValue value(std::move(content));
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (auto* array = std::get_if<JsonValue::Array>(&open_.back()->content())) {
      array->push_back(std::move(value));
      return &array->back();
    }
    auto& object = std::get<JsonValue::Object>(open_.back()->content());
    object.push_back({std::move(key_), std::move(value)});
    return &object.back().value;
  }
  // The address stays good while the container is open: its parent gets no other child before it is closed.
  void open(JsonValue::Content content) { open_.push_back(put(std::move(content))); }

  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::string key_;
};

const char* kind_of(const JsonValue& value) {
  constexpr const char* kinds[] = {
      "null",     "true or false", "a whole number", "a negative number", "a decimal number",
      "a string", "an array",      "an object"};
  return kinds[value.content().index()];
}

Error wrong_kind(std::string_view what, const char* wanted, const JsonValue& got) {
  return Error::make(ExitCode::bad_data, "{}: wanted {}, got {}", printable(what), wanted, kind_of(got));
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// One past the string that begins at `at`.
size_t after_string(std::string_view text, size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at)
    if (text[at] == '\\') ++at;
  return std::min(at + 1, text.size());
}

/// One past the value that begins at `at`.
size_t after_value(std::string_view text, size_t at) {
  for (int depth = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"')
      at = after_string(text, at) - 1;
    else if (c == '{' || c == '[')
      ++depth;
    else if (c == '}' || c == ']' || c == ',') {
      if (depth == 0) break;
      if (c != ',' && --depth == 0) return at + 1;
    }
  }
  return std::min(at, text.size());
}

}  // namespace

void parse_json_events(std::string_view text, std::string_view where, const JsonLimits& limits, JsonEvents& events) {
  json::parse_options options;
  options.max_depth = limits.depth;
  json::basic_parser<Handler> parser(options, where, limits, events);
  error_code problem;
  const size_t used = parser.write_some(false, text.data(), text.size(), problem);
  if (problem) throw bad(where, fmt::format("not strict JSON at byte {}: {}", used, problem.message()));
  for (size_t i = used; i < text.size(); ++i)
    if (!is_space(text[i])) throw bad(where, fmt::format("wanted the end of the JSON text at byte {}, got more", i));
}

JsonValue parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  TreeBuilder builder;
  parse_json_events(text, where, limits, builder);
  return builder.take();
}

JsonValue::JsonValue() : content_(nullptr) {}
JsonValue::JsonValue(Content content) : content_(std::move(content)) {}
JsonValue::JsonValue(const JsonValue&) = default;
JsonValue::JsonValue(JsonValue&&) noexcept = default;
JsonValue& JsonValue::operator=(const JsonValue&) = default;
JsonValue& JsonValue::operator=(JsonValue&&) noexcept = default;
JsonValue::~JsonValue() = default;

const JsonValue::Object& JsonValue::object(std::string_view what) const {
  if (const auto* value = std::get_if<Object>(&content_)) return *value;
  throw wrong_kind(what, "an object", *this);
}

const JsonValue::Array& JsonValue::array(std::string_view what) const {
  if (const auto* value = std::get_if<Array>(&content_)) return *value;
  throw wrong_kind(what, "an array", *this);
}

const std::string& JsonValue::text(std::string_view what) const {
  if (const auto* value = std::get_if<std::string>(&content_)) return *value;
  throw wrong_kind(what, "a string", *this);
}

uint64_t JsonValue::count(std::string_view what) const {
  if (const auto* value = std::get_if<uint64_t>(&content_)) return *value;
  throw wrong_kind(what, "a whole number that is not negative", *this);
}

double JsonValue::number(std::string_view what) const {
  if (const auto* value = std::get_if<double>(&content_)) return *value;
  if (const auto* value = std::get_if<uint64_t>(&content_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<int64_t>(&content_)) return static_cast<double>(*value);
  if (std::holds_alternative<std::nullptr_t>(content_)) return std::nan("");
  throw wrong_kind(what, "a number", *this);
}

const JsonValue* JsonValue::find(std::string_view name) const {
  if (const auto* members = std::get_if<Object>(&content_))
    for (const JsonMember& member : *members)
      if (member.name == name) return &member.value;
  return nullptr;
}

const JsonValue& JsonValue::member(std::string_view name) const {
  object(name);
  if (const JsonValue* found = find(name)) return *found;
  throw Error::make(ExitCode::bad_data, "wanted a member '{}', there is none", name);
}

std::string_view raw_json_member(std::string_view text, std::string_view name) {
  const auto skip = [&](size_t at) {
    while (at < text.size() && is_space(text[at])) ++at;
    return at;
  };
  size_t at = skip(skip(0) + 1);  // past the brace
  while (at < text.size() && text[at] == '"') {
    const size_t key_end = after_string(text, at);
    const std::string_view key = text.substr(at + 1, key_end - at - 2);
    const size_t begin = skip(skip(key_end) + 1);  // past the colon
    size_t end = after_value(text, begin);
    const size_t comma = skip(end);
    while (end > begin && is_space(text[end - 1])) --end;
    if (key == name) return text.substr(begin, end - begin);
    if (comma >= text.size() || text[comma] != ',') break;
    at = skip(comma + 1);
  }
  return {};
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + "\"";
}

}  // namespace capstan
