#include "io/weights/family_config.h"

#include <algorithm>
#include <cmath>

#include "core/config/config_checks.h"
#include "core/config/config_mistakes.h"
#include "core/error.h"
#include "io/weights/family_rows.h"
#include "io/weights/model_settings.h"

namespace capstan {
namespace {

JsonLimits config_limits() {
  JsonLimits limits;
  limits.values = size_t{1} << 18;
  limits.depth = 16;
  return limits;
}

bool says_null(const JsonValue& value) { return std::holds_alternative<std::nullptr_t>(value.content()); }

/// The first of the alternatives that is there and not null; null otherwise.
const JsonValue* find_member(const JsonValue& root, std::string_view alternatives) {
  for (const std::string& path : split_at(alternatives, '|')) {
    const JsonValue* at = &root;
    for (const std::string& name : split_at(path, '.')) at = at ? at->find(name) : nullptr;
    if (at != nullptr && !says_null(*at)) return at;
  }
  return nullptr;
}

/// A value as short text, to compare words and to show.
std::string word_of(const JsonValue& value) {
  const JsonValue::Content& content = value.content();
  if (const auto* flag = std::get_if<bool>(&content)) return *flag ? "true" : "false";
  if (const auto* text = std::get_if<std::string>(&content)) return *text;
  if (const auto* count = std::get_if<uint64_t>(&content)) return fmt::format("{}", *count);
  if (const auto* negative = std::get_if<int64_t>(&content)) return fmt::format("{}", *negative);
  if (const auto* real = std::get_if<double>(&content)) return fmt::format("{}", *real);
  if (says_null(value)) return "null";
  return std::holds_alternative<JsonValue::Array>(content) ? "an array" : "an object";
}

std::string shown_text(const JsonValue& value) { return word_of(value).substr(0, 80); }

std::optional<double> number_of(const JsonValue& value) {
  const JsonValue::Content& content = value.content();
  if (const auto* count = std::get_if<uint64_t>(&content)) return static_cast<double>(*count);
  if (const auto* negative = std::get_if<int64_t>(&content)) return static_cast<double>(*negative);
  if (const auto* real = std::get_if<double>(&content)) return *real;
  return std::nullopt;
}

/// As the key's type; nothing when it is none.
std::optional<ConfigValue> as_key_value(const Key& key, const JsonValue& value) {
  const std::optional<double> number = number_of(value);
  switch (key.type) {
    case KeyType::boolean:
      if (const auto* flag = std::get_if<bool>(&value.content())) return ConfigValue(*flag);
      return std::nullopt;
    case KeyType::integer:
      if (!number || *number != std::floor(*number) || std::abs(*number) > 0x1p53) return std::nullopt;
      return ConfigValue(static_cast<int64_t>(*number));
    case KeyType::real:
      return number ? std::optional<ConfigValue>(*number) : std::nullopt;
    case KeyType::choice:
      return ConfigValue(word_of(value));
    default:
      return std::nullopt;
  }
}

/// Reads one config.json by one family's table.
class ConfigReading {
 public:
  ConfigReading(const ModelFamily& family, const JsonValue& root, const std::string& where)
      : family_(family), root_(root), where_(where) {}

  DecoderConfig model() {
    for (const char* setting : family_.fixed) fix(setting);
    for (const ConfigRow& row : family_.config)
      if (row_applies(row, config_)) read(row);
    check();
    return config_.model;
  }

  /// What of the wanted members is otherwise; empty when all are so.
  static std::string unlike(const ModelFamily& family, const JsonValue& root) {
    for (const WantedMember& wanted : family.wanted) {
      const JsonValue* found = find_member(root, wanted.json);
      const std::string got = found ? word_of(*found) : wanted.fallback;
      if (got != wanted.value) return fmt::format("{} = {}, wanted {}", wanted.json, got.substr(0, 40), wanted.value);
    }
    return "";
  }

 private:
  Error bad(const ConfigRow& row, const std::string& wanted, const std::string& got) const {
    return Error::make(ExitCode::bad_data, "{}: {}: wanted {}, got {}", where_, row.json, wanted, got);
  }

  void fix(std::string_view setting) {
    const auto [name, text] = parse_setting(setting);
    const Key& key = model_key(name);
    const JsonValue value = key.type == KeyType::choice ? JsonValue(text) : parse_json(text, "a family's table");
    key.set(config_, *as_key_value(key, value));
  }

  void read(const ConfigRow& row) {
    const JsonValue* found = find_member(root_, row.json);
    if (found == nullptr && *row.fallback == '\0') throw bad(row, "a value", "none");
    const JsonValue fallback = found ? JsonValue() : parse_json(row.fallback, "a family's table");
    set(row, found ? *found : fallback);
  }

  void set(const ConfigRow& row, const JsonValue& value) {
    if (row.meaning == Meaning::alternation) return set_alternation(row, value);
    const Key& key = model_key(row.key);
    std::optional<ConfigValue> meant;
    if (says_null(value)) {
      if (row.meaning != Meaning::zero_is_null && row.meaning != Meaning::zero_is_width)
        throw bad(row, key.wanted(), "null");
      meant = ConfigValue(int64_t{0});
    } else {
      meant = translated(row, key, value);
    }
    if (!meant || !key.accepts(*meant)) throw bad(row, key.wanted(), shown_text(value));
    key.set(config_, *meant);
  }

  std::optional<ConfigValue> translated(const ConfigRow& row, const Key& key, const JsonValue& value) {
    switch (row.meaning) {
      case Meaning::word: {
        std::string known;
        for (const Wording& word : row.words) {
          if (word_of(value) == word.theirs) return ConfigValue(std::string(word.ours));
          known += fmt::format("{}{}", known.empty() ? "" : ", ", word.theirs);
        }
        throw bad(row, "one of " + known, shown_text(value));
      }
      case Meaning::zero_is_width: {
        std::optional<ConfigValue> meant = as_key_value(key, value);
        if (meant && std::get<int64_t>(*meant) == config_.model.width) meant = ConfigValue(int64_t{0});
        return meant;
      }
      case Meaning::rotated_dims: {
        const std::optional<double> dims = number_of(value);
        const int64_t head = config_.model.heads > 0 ? config_.model.head() : 0;
        if (!dims || head < 1) return std::nullopt;
        return ConfigValue(*dims / static_cast<double>(head));
      }
      case Meaning::toggle: {
        const auto* flag = std::get_if<bool>(&value.content());
        if (!flag) throw bad(row, "true or false", shown_text(value));
        return ConfigValue(std::string(*flag ? "on" : "off"));
      }
      default:
        return as_key_value(key, value);
    }
  }

  /// [[["global", "local"], 12]], the window having been read: of the layers of a period one is global, or all are.
  void set_alternation(const ConfigRow& row, const JsonValue& value) {
    const char* wanted = "[[[\"global\", \"local\"], n]] with one global layer in each period, or only global ones";
    const auto* outer = std::get_if<JsonValue::Array>(&value.content());
    if (!outer || outer->size() != 1) throw bad(row, wanted, shown_text(value));
    const auto* pair = std::get_if<JsonValue::Array>(&outer->front().content());
    const auto* period = pair && pair->size() == 2 ? std::get_if<JsonValue::Array>(&pair->front().content()) : nullptr;
    if (!period || period->empty() || period->size() > 1024) throw bad(row, wanted, "something else");
    int64_t global = 0, first = 0;
    for (size_t i = 0; i < period->size(); ++i) {
      const std::string kind = word_of((*period)[i]);
      if (kind != "global" && kind != "local") throw bad(row, wanted, kind.substr(0, 40));
      if (kind == "global" && global++ == 0) first = static_cast<int64_t>(i);
    }
    const auto length = static_cast<int64_t>(period->size());
    if (global == length) return model_key("window").set(config_, ConfigValue(int64_t{0}));
    if (global > 1) throw bad(row, wanted, "several global layers in a period");
    model_key("global_every").set(config_, ConfigValue(global == 0 ? int64_t{0} : length));
    model_key("global_first").set(config_, ConfigValue(first));
  }

  /// All that is checked of a run's model.
  void check() const {
    std::string mistakes;
    for (const Conflict& conflict : config_conflicts(config_))
      if (conflict.keys.front().rfind("model.", 0) == 0)
        mistakes += fmt::format("\n  {}: {}", conflict.keys.front(), conflict.message);
    const DecoderConfig& m = config_.model;
    constexpr int64_t kMost = int64_t{1} << 40;  // elements of one tensor: far above any, far below an overflow
    for (const auto& [rows, columns] :
         {std::pair{m.vocabulary, m.width}, {m.mlp(), m.width}, {m.heads * m.head(), m.width}, {m.context, m.width}})
      if (rows > kMost / std::max<int64_t>(1, columns)) mistakes += "\n  a matrix of more than 2^40 elements";
    if (m.vocabulary < 1) mistakes += "\n  vocab_size: wanted at least 1";
    if (!mistakes.empty())
      throw Error::make(ExitCode::bad_data, "{}: describes a model that cannot be:{}", where_, mistakes);
  }

  const ModelFamily& family_;
  const JsonValue& root_;
  const std::string& where_;
  RunConfig config_;
};

}  // namespace

JsonValue parse_model_config(std::string_view text, const std::string& where) {
  if (text.size() > kMaxModelConfigBytes)
    throw Error::make(ExitCode::bad_data, "{}: wanted at most {} bytes, it has {}", where, kMaxModelConfigBytes,
                      text.size());
  JsonValue root = parse_json(text, where, config_limits());
  root.object(where);
  return root;
}

DecoderConfig read_family_config(const ModelFamily& family, const JsonValue& root, const std::string& where) {
  if (const std::string unlike = ConfigReading::unlike(family, root); !unlike.empty())
    throw Error::make(ExitCode::bad_data, "{}: a {} of this kind cannot be read: {}", where, family.model_type, unlike);
  return ConfigReading(family, root, where).model();
}

FamilyModel read_model_config(std::string_view text, const std::string& where) {
  const JsonValue root = parse_model_config(text, where);
  const JsonValue* named = root.find("model_type");
  if (named == nullptr || !std::holds_alternative<std::string>(named->content()))
    throw Error::make(ExitCode::bad_data, "{}: model_type: wanted the name of a family, got {}", where,
                      named ? shown_text(*named) : "none");
  const std::string type = named->text("model_type");
  std::string unlike;
  for (const ModelFamily& family : families()) {
    if (type != family.model_type) continue;
    unlike = ConfigReading::unlike(family, root);
    if (unlike.empty()) return {&family, ConfigReading(family, root, where).model()};
  }
  if (!unlike.empty())
    throw Error::make(ExitCode::bad_data, "{}: a {} of this kind cannot be read: {}", where, type, unlike);
  throw Error::make(ExitCode::bad_data, "{}: model_type '{}' is not among those that can be read: {}", where,
                    type.substr(0, 60), fmt::join(known_model_types(), ", "));
}

const ModelFamily& family_for(const DecoderConfig& model, std::string_view model_type) {
  const ModelFamily* nearest = nullptr;
  std::vector<std::string> fewest;
  for (const ModelFamily& family : families()) {
    if (!model_type.empty() && model_type != family.model_type) continue;
    std::vector<std::string> differences;
    try {
      const FamilyModel back = read_model_config(write_model_config(family, model, {}), family.model_type);
      differences = model_differences(model, back.model);
    } catch (const Error& error) {
      differences = {error.what()};
    }
    if (differences.empty()) return family;
    if (!nearest || differences.size() < fewest.size()) nearest = &family, fewest = differences;
  }
  if (!nearest)
    throw Error::make(ExitCode::config, "there is no family '{}'; known: {}", model_type,
                      fmt::join(known_model_types(), ", "));
  throw Error::make(ExitCode::config,
                    "no family of Hugging Face's models expresses this model; {} comes nearest, but would change\n  {}",
                    nearest->model_type, fmt::join(fewest, "\n  "));
}

std::vector<std::string> known_model_types() {
  std::vector<std::string> types;
  for (const ModelFamily& family : families())
    if (std::find(types.begin(), types.end(), family.model_type) == types.end()) types.emplace_back(family.model_type);
  return types;
}

}  // namespace capstan
