#pragma once
// Strict JSON for files that nobody vouches for. Boost's event parser does the syntax; on top of it a duplicate key, a
// number that does not fit, too deep a nest, too many values and over-long names are errors, and decimal numbers are
// rounded correctly (the parser's own doubles are off by a bit now and then). Rule for callers: read a large untrusted
// text as events, so that memory follows what is kept and not what is written there; a JsonValue is for small ones.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace capstan {

struct JsonLimits {
  size_t depth = 32;
  size_t values = size_t{1} << 22;  ///< in all, containers included
  size_t key_bytes = 1024;
  size_t string_bytes = size_t{1} << 20;
};

/// What the parser sees, in order. A handler throws Error to stop. Integers without fraction and exponent arrive as
/// integers (negative ones only in `negative`); every other number is a `real`.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void object_begin() = 0;
  virtual void object_end() = 0;
  virtual void array_begin() = 0;
  virtual void array_end() = 0;
  virtual void key(std::string_view name) = 0;
  virtual void text(std::string_view value) = 0;
  virtual void count(uint64_t value) = 0;
  virtual void negative(int64_t value) = 0;
  virtual void real(double value) = 0;
  virtual void boolean(bool value) = 0;
  virtual void null() = 0;
};

/// Error bad_data that begins with `where` and names the byte.
void parse_json_events(std::string_view text, std::string_view where, const JsonLimits& limits, JsonEvents& events);

struct JsonMember;

/// A parsed value. The accessors throw Error bad_data that says what was wanted and what is there.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::vector<JsonMember>;
  using Content = std::variant<std::nullptr_t, bool, uint64_t, int64_t, double, std::string, Array, Object>;

  // Out of line: here a JsonMember is not complete yet, which clang minds.
  JsonValue();
  explicit JsonValue(Content content);
  JsonValue(const JsonValue&);
  JsonValue(JsonValue&&) noexcept;
  JsonValue& operator=(const JsonValue&);
  JsonValue& operator=(JsonValue&&) noexcept;
  ~JsonValue();
  const Content& content() const { return content_; }
  Content& content() { return content_; }

  const Object& object(std::string_view what) const;
  const Array& array(std::string_view what) const;
  const std::string& text(std::string_view what) const;
  uint64_t count(std::string_view what) const;  ///< a whole number >= 0, written as one
  double number(std::string_view what) const;   ///< any number; null is NaN
  const JsonValue& member(std::string_view name) const;
  const JsonValue* find(std::string_view name) const;  ///< null when this is no object or has no such member

 private:
  Content content_;
};

struct JsonMember {
  std::string name;
  JsonValue value;
};

JsonValue parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// The text, byte for byte, of one member of the object that `text` holds; `text` must have been parsed before.
/// Empty when there is no such member. The name must need no escapes.
std::string_view raw_json_member(std::string_view text, std::string_view name);

/// The string in quotes, with escapes.
std::string json_quote(std::string_view text);

}  // namespace capstan
