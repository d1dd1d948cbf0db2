#pragma once
// Key: one setting, declared once. The reader, the checks, the listing, the reference page, the effective config and
// the comparison on resume all walk over keys() and know no setting by name. A row is made by one of the builders below
// from a pointer to its field, so a row and its field cannot disagree about the type. The default is the field's value
// in a RunConfig{}: it is not written a second time.

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/config/run_config.h"

namespace capstan {

enum class KeyType { boolean, integer, real, text, choice, text_list, number_list, choice_or_count };

/// What a key can hold. A choice is its name; choice_or_count is a name or a number.
using ConfigValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>, std::vector<double>>;

/// Whether a run may be continued with another value of the key.
enum class OnResume { fixed, may_change };

/// Accepted numbers: minimum <= x <= maximum, the ends excluded where said. Never NaN or infinity.
struct Range {
  double minimum = std::numeric_limits<double>::lowest();
  double maximum = std::numeric_limits<double>::max();
  bool minimum_excluded = false;
  bool maximum_excluded = false;
  bool holds(double x) const;
  std::string text() const;  ///< "at least 1", "from 0 to 1 (1 excluded)"
};

struct Key {
  std::string name;  ///< "model.layers"
  KeyType type = KeyType::boolean;
  std::string unit;  ///< "tokens"; empty for a pure number, a name or a switch
  Range range;
  std::vector<std::string> choices;
  std::string sentence;
  OnResume on_resume = OnResume::fixed;
  std::function<ConfigValue(const RunConfig&)> get;
  std::function<void(RunConfig&, const ConfigValue&)> set;

  std::string section() const { return name.substr(0, name.find('.')); }
  std::string leaf() const { return name.substr(name.find('.') + 1); }
  /// "an integer, at least 1": what the key accepts, for messages and the reference page.
  std::string wanted() const;
  /// Whether a value of the right type is one that the key accepts.
  bool accepts(const ConfigValue& value) const;
};

/// The value as TOML text that reads back to the same value; doubles keep all their digits.
std::string to_toml(const ConfigValue& value);

namespace key_rows {

/// A field of a section of RunConfig.
template <typename Section, typename Field>
struct Path {
  Section RunConfig::*section;
  Field Section::*field;
  const Field& of(const RunConfig& config) const { return config.*section.*field; }
  Field& of(RunConfig& config) const { return config.*section.*field; }
};

template <typename Section, typename Field>
Path<Section, Field> in(Section RunConfig::*section, Field Section::*field) {
  return {section, field};
}

template <typename Section, typename Field>
Key plain(std::string name, KeyType type, Path<Section, Field> path, std::string sentence, OnResume on_resume) {
  using Held = std::conditional_t<std::is_integral_v<Field> && !std::is_same_v<Field, bool>, int64_t, Field>;
  Key key;
  key.name = std::move(name);
  key.type = type;
  key.sentence = std::move(sentence);
  key.on_resume = on_resume;
  key.get = [path](const RunConfig& config) { return ConfigValue(static_cast<Held>(path.of(config))); };
  key.set = [path](RunConfig& config, const ConfigValue& value) {
    path.of(config) = static_cast<Field>(std::get<Held>(value));
  };
  return key;
}

template <typename Section>
Key boolean(std::string name, Path<Section, bool> path, OnResume on_resume, std::string sentence) {
  return plain(std::move(name), KeyType::boolean, path, std::move(sentence), on_resume);
}

/// Whole numbers above the field's own range are refused whatever `range` says.
template <typename Section, typename Field>
Key integer(std::string name, Path<Section, Field> path, std::string unit, Range range, OnResume on_resume,
            std::string sentence) {
  static_assert(std::is_integral_v<Field>);
  Key key = plain(std::move(name), KeyType::integer, path, std::move(sentence), on_resume);
  key.unit = std::move(unit);
  key.range = range;
  constexpr double kExact = 9007199254740992.0;  // 2^53: every whole number up to here is also a double
  const double largest = sizeof(Field) < 8 ? static_cast<double>(std::numeric_limits<Field>::max()) : kExact;
  key.range.maximum = range.maximum < largest ? range.maximum : largest;
  return key;
}

template <typename Section>
Key real(std::string name, Path<Section, double> path, std::string unit, Range range, OnResume on_resume,
         std::string sentence) {
  Key key = plain(std::move(name), KeyType::real, path, std::move(sentence), on_resume);
  key.unit = std::move(unit);
  key.range = range;
  return key;
}

template <typename Section>
Key text(std::string name, Path<Section, std::string> path, std::string unit, OnResume on_resume,
         std::string sentence) {
  Key key = plain(std::move(name), KeyType::text, path, std::move(sentence), on_resume);
  key.unit = std::move(unit);
  return key;
}

template <typename Section>
Key text_list(std::string name, Path<Section, std::vector<std::string>> path, std::string unit, OnResume on_resume,
              std::string sentence) {
  Key key = plain(std::move(name), KeyType::text_list, path, std::move(sentence), on_resume);
  key.unit = std::move(unit);
  return key;
}

/// `range` is that of each number. One number stands for a list of one.
template <typename Section>
Key number_list(std::string name, Path<Section, std::vector<double>> path, std::string unit, Range range,
                OnResume on_resume, std::string sentence) {
  Key key = plain(std::move(name), KeyType::number_list, path, std::move(sentence), on_resume);
  key.unit = std::move(unit);
  key.range = range;
  return key;
}

/// `names` in the order of the enum's values.
template <typename Section, typename Enum>
Key choice(std::string name, Path<Section, Enum> path, std::vector<std::string> names, OnResume on_resume,
           std::string sentence) {
  static_assert(std::is_enum_v<Enum>);
  Key key;
  key.name = std::move(name);
  key.type = KeyType::choice;
  key.choices = names;
  key.sentence = std::move(sentence);
  key.on_resume = on_resume;
  key.get = [path, names](const RunConfig& config) {
    return ConfigValue(names.at(static_cast<size_t>(path.of(config))));
  };
  key.set = [path, names](RunConfig& config, const ConfigValue& value) {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == std::get<std::string>(value)) path.of(config) = static_cast<Enum>(i);
  };
  return key;
}

inline Range at_least(double minimum) { return {.minimum = minimum}; }
inline Range between(double minimum, double maximum) { return {.minimum = minimum, .maximum = maximum}; }
inline Range above(double minimum) { return {.minimum = minimum, .minimum_excluded = true}; }
inline Range from_to_below(double minimum, double maximum) {
  return {.minimum = minimum, .maximum = maximum, .maximum_excluded = true};
}
inline Range above_up_to(double minimum, double maximum) {
  return {.minimum = minimum, .maximum = maximum, .minimum_excluded = true};
}

}  // namespace key_rows
}  // namespace capstan
