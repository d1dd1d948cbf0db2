#include "io/weights/family_config.h"

#include <algorithm>
#include <cmath>

#include "core/config/config_checks.h"
#include "core/config/config_mistakes.h"
#include "core/error.h"
#include "io/printable.h"
#include "io/weights/config_member.h"
#include "io/weights/family_rows.h"
#include "io/weights/layer_kinds.h"
#include "io/weights/model_settings.h"
#include "io/weights/rope_members.h"
#include "io/weights/window_rule.h"

namespace capstan {
namespace {

JsonLimits config_limits() {
  JsonLimits limits;
  limits.values = size_t{1} << 18;
  limits.depth = 16;
  return limits;
}

/// As the key's type; nothing when it is none.
std::optional<ConfigValue> as_key_value(const Key& key, const JsonValue& value) {
  const std::optional<double> number = json_number(value);
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
      return ConfigValue(json_word(value));
    default:
      return std::nullopt;
  }
}

/// As a word of a table would stand in the file.
std::string word_text(std::string_view word) {
  return word == "true" || word == "false" ? std::string(word) : json_quote(word);
}

constexpr std::string_view kRope = "rope_scaling.";

/// Reads one config.json by one family's table.
class ConfigReading {
 public:
  ConfigReading(const ModelFamily& family, const JsonValue& root, const std::string& where)
      : family_(family), root_(root), where_(where) {}

  DecoderConfig model() {
    for (const char* setting : family_.fixed) fix(setting);
    for (const ConfigRow& row : family_.config)
      if (row_applies(row, config_)) read(row);
    if (config_.model.window == 0) set_window_rule(config_.model, {config_.model.layers, 0, 0});
    check();
    return config_.model;
  }

  /// What of the wanted members is otherwise; empty when all are so.
  static std::vector<std::string> unlike(const ModelFamily& family, const JsonValue& root) {
    std::vector<std::string> otherwise;
    for (const WantedMember& wanted : family.wanted) {
      const JsonValue* found = find_config_member(root, wanted.json).value;
      const std::string got = !found ? wanted.fallback : is_json_null(*found) ? wanted.when_null : shown_json(*found);
      if (got == wanted.value || is_harmless(wanted, root)) continue;
      otherwise.push_back(fmt::format("{} = {}, wanted {}", wanted.json, got, wanted.value));
    }
    return otherwise;
  }

 private:
  static bool is_harmless(const WantedMember& wanted, const JsonValue& root) {
    if (*wanted.only_beside == '\0') return false;
    const JsonValue* other = find_config_member(root, wanted.only_beside).value;
    return other == nullptr || shown_json(*other) == wanted.harmless_value;
  }

  Error bad(const ConfigRow& row, const std::string& wanted, const std::string& got) const {
    std::string path = find(row).path;
    if (path.starts_with(kRope)) path.replace(0, kRope.size() - 1, rope_place(root_));
    return Error::make(ExitCode::bad_data, "{}: {}: wanted {}, got {}", where_, path, wanted, got);
  }

  /// What is below "rope_scaling." is looked for in what that and rope_parameters come to.
  ConfigMember find(const ConfigRow& row) const {
    ConfigMember found;
    for (const std::string& path : split_at(row.json, '|')) {
      const bool rotary = path.starts_with(kRope);
      if (rotary && !rope_) rope_ = explicit_rope(root_, config_.model.context, where_);
      found = find_config_member(rotary ? *rope_ : root_, path);
      if (found.value != nullptr) break;
    }
    return found;
  }

  void fix(std::string_view setting) {
    const auto [name, text] = parse_setting(setting);
    const Key& key = model_key(name);
    const JsonValue value = key.type == KeyType::choice ? JsonValue(text) : parse_json(text, "a family's table");
    key.set(config_, *as_key_value(key, value));
  }

  void read(const ConfigRow& row) {
    const JsonValue* found = find(row).value;
    if (found == nullptr && *row.fallback == '\0') throw bad(row, "a value", "none");
    const JsonValue fallback = found ? JsonValue() : parse_json(row.fallback, "a family's table");
    if (found != nullptr) check_zero(row, *found);
    set(row, found ? *found : fallback);
  }

  /// Where a 0 of ours stands for something else, a 0 of theirs must not become it.
  void check_zero(const ConfigRow& row, const JsonValue& value) const {
    if (row.meaning == Meaning::zero_is_absent || std::string_view(row.key) == "window_from") return;
    if (model_key(row.key).type == KeyType::integer && json_number(value) == 0.0) throw bad(row, "at least 1", "0");
  }

  void set(const ConfigRow& row, const JsonValue& value) {
    if (row.meaning == Meaning::alternation) return set_alternation(row, value);
    if (row.meaning == Meaning::layer_types) return set_layer_types(row, value);
    const Key& key = model_key(row.key);
    std::optional<ConfigValue> meant;
    if (is_json_null(value)) {
      if (row.meaning != Meaning::zero_is_null && row.meaning != Meaning::zero_is_width)
        throw bad(row, row.meaning == Meaning::toggle ? "true or false" : key.wanted(), "null");
      meant = ConfigValue(int64_t{0});
    } else {
      meant = translated(row, key, value);
    }
    if (!meant || !key.accepts(*meant)) throw bad(row, key.wanted(), shown_json(value));
    key.set(config_, *meant);
  }

  std::optional<ConfigValue> translated(const ConfigRow& row, const Key& key, const JsonValue& value) {
    switch (row.meaning) {
      case Meaning::word: {
        std::string known;
        for (const Wording& word : row.words) {
          if (shown_json(value) == word_text(word.theirs)) return ConfigValue(std::string(word.ours));
          known += fmt::format("{}{}", known.empty() ? "" : ", ", word.theirs);
        }
        throw bad(row, "one of " + known, shown_json(value));
      }
      case Meaning::zero_is_width: {
        std::optional<ConfigValue> meant = as_key_value(key, value);
        if (meant && std::get<int64_t>(*meant) == config_.model.width) meant = ConfigValue(int64_t{0});
        return meant;
      }
      case Meaning::rotated_dims: {
        const std::optional<double> dims = json_number(value);
        const int64_t head = config_.model.heads > 0 ? config_.model.head() : 0;
        if (!dims || head < 1) return std::nullopt;
        return ConfigValue(*dims / static_cast<double>(head));
      }
      case Meaning::always: {
        if (json_number(value) != json_number(parse_json(row.fallback, "a family's table")))
          throw bad(row, std::string(row.fallback) + ": no other can be expressed", shown_json(value));
        return as_key_value(key, value);
      }
      case Meaning::toggle: {
        const auto* flag = std::get_if<bool>(&value.content());
        if (!flag) throw bad(row, "true or false", shown_json(value));
        return ConfigValue(std::string(*flag ? "on" : "off"));
      }
      default:
        return as_key_value(key, value);
    }
  }

  /// Which layers have a window, the window having been read.
  void set_alternation(const ConfigRow& row, const JsonValue& value) {
    set_windows(row, windows_in(row, value, {"global", "local", true}), WindowRuleKind::periodic);
  }

  /// The same; null: the window and from which layer on have said it.
  void set_layer_types(const ConfigRow& row, const JsonValue& value) {
    if (is_json_null(value)) return;
    const std::vector<bool> windowed = windows_in(row, value, {"full_attention", "sliding_attention", false});
    if (std::string_view(row.key) != "window") return set_windows(row, windowed, WindowRuleKind::from_first);
    const bool all_alike = std::count(windowed.begin(), windowed.end(), config_.model.window == 0) == 0;
    if (!all_alike) throw bad(row, "in all layers what sliding_window says, which alone counts here", "another kind");
  }

  std::vector<bool> windows_in(const ConfigRow& row, const JsonValue& value, const LayerKinds& kinds) const {
    return windows_of_kinds(value, kinds, config_.model.layers,
                            [&](const std::string& wanted, const std::string& got) { return bad(row, wanted, got); });
  }

  void set_windows(const ConfigRow& row, const std::vector<bool>& windowed, WindowRuleKind kind) {
    const std::optional<WindowRule> rule = window_rule(windowed, kind);
    if (!rule) throw bad(row, "windows from a layer on, but for one layer in so many", "windows by another rule");
    if (rule->from < config_.model.layers && config_.model.window == 0)
      throw bad(row, "no layer with a window, since its size is not said", "some");
    set_window_rule(config_.model, *rule);
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
  mutable std::optional<JsonValue> rope_;  ///< once the context has been read
  RunConfig config_;
};

/// Members that change what any model computes.
constexpr const char* kChangesOfAll[] = {"quantization_config", "per_layer_config"};

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
  if (const auto unlike = ConfigReading::unlike(family, root); !unlike.empty())
    throw Error::make(ExitCode::bad_data, "{}: a {} of this kind cannot be read: {}", where, family.model_type,
                      fmt::join(unlike, ", "));
  return ConfigReading(family, root, where).model();
}

FamilyModel read_model_config(std::string_view text, const std::string& where) {
  const JsonValue root = parse_model_config(text, where);
  const JsonValue* named = root.find("model_type");
  if (named == nullptr || !std::holds_alternative<std::string>(named->content()))
    throw Error::make(ExitCode::bad_data, "{}: model_type: wanted the name of a family, got {}", where,
                      named ? shown_json(*named) : "none");
  const std::string type = named->text("model_type");
  const ModelFamily* nearest = nullptr;
  std::vector<std::string> fewest;
  for (const char* member : kChangesOfAll)
    if (const JsonValue* found = root.find(member); found && !is_json_null(*found))
      throw Error::make(ExitCode::bad_data, "{}: {}: wanted none, since it changes what the model computes, got {}",
                        where, member, shown_json(*found));
  for (const ModelFamily& family : families()) {
    if (type != family.model_type) continue;
    const std::vector<std::string> unlike = ConfigReading::unlike(family, root);
    if (unlike.empty()) return {&family, ConfigReading(family, root, where).model()};
    if (!nearest || unlike.size() < fewest.size()) nearest = &family, fewest = unlike;
  }
  if (nearest)
    throw Error::make(ExitCode::bad_data, "{}: a {} of this kind cannot be read: {}", where, printable(type),
                      fmt::join(fewest, ", "));
  throw Error::make(ExitCode::bad_data, "{}: model_type '{}' is not among those that can be read: {}", where,
                    printable(type, 60), fmt::join(known_model_types(), ", "));
}

const ModelFamily& family_for(const DecoderConfig& model, std::string_view model_type) {
  const ModelFamily* nearest = nullptr;
  bool nearest_said = false;  // one that cannot even be written comes last
  std::vector<std::string> fewest;
  for (const ModelFamily& family : families()) {
    if (!model_type.empty() && model_type != family.model_type) continue;
    std::vector<std::string> differences;
    bool said = true;
    try {
      const FamilyModel back = read_model_config(write_model_config(family, model, {}), family.model_type);
      differences = model_differences(model, back.model);
    } catch (const Error& error) {
      differences = {error.what()}, said = false;
    }
    if (differences.empty()) return family;
    const bool nearer = said == nearest_said ? differences.size() < fewest.size() : said;
    if (!nearest || nearer) nearest = &family, nearest_said = said, fewest = differences;
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
