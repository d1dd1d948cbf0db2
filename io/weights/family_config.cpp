#include "io/weights/family_config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "core/config/config_checks.h"
#include "core/config/config_mistakes.h"
#include "core/config/keys.h"
#include "core/error.h"

namespace capstan {
namespace json = boost::json;
namespace {

JsonLimits config_limits() {
  JsonLimits limits;
  limits.values = size_t{1} << 18;
  limits.depth = 16;
  return limits;
}

std::vector<std::string> split_at(std::string_view text, char by) {
  std::vector<std::string> parts;
  while (true) {
    const size_t at = text.find(by);
    parts.emplace_back(text.substr(0, at));
    if (at == text.npos) return parts;
    text.remove_prefix(at + 1);
  }
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

const Key& key_of(const char* name) {
  const Key* key = find_config_key(std::string("model.") + name);
  if (key == nullptr) throw Error::make(ExitCode::config, "models here have no setting model.{}", name);
  return *key;
}

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

/// Whether a row that is there only with a certain setting is there.
bool applies(const ConfigRow& row, const RunConfig& config) {
  const std::string_view when = row.when;
  if (when.empty()) return true;
  const size_t equals = when.find('=');
  return std::get<std::string>(key_of(std::string(when.substr(0, equals)).c_str()).get(config)) ==
         when.substr(equals + 1);
}

/// Reads one config.json by one family's table.
class ConfigReading {
 public:
  ConfigReading(const ModelFamily& family, const JsonValue& root, const std::string& where)
      : family_(family), root_(root), where_(where) {}

  DecoderConfig model() {
    for (const char* setting : family_.fixed) fix(setting);
    for (const ConfigRow& row : family_.config)
      if (applies(row, config_)) read(row);
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
    const size_t equals = setting.find('=');
    const Key& key = key_of(std::string(setting.substr(0, equals)).c_str());
    const std::string text(setting.substr(equals + 1));
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
    const Key& key = key_of(row.key);
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
    if (global == length) return key_of("window").set(config_, ConfigValue(int64_t{0}));
    if (global > 1) throw bad(row, wanted, "several global layers in a period");
    key_of("global_every").set(config_, ConfigValue(global == 0 ? int64_t{0} : length));
    key_of("global_first").set(config_, ConfigValue(first));
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

// ---- writing

json::value setting_json(const ConfigValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return json::value(std::get<std::string>(value));
}

json::value alternation_of(const DecoderConfig& model, const RunConfig& config) {
  const int64_t every = std::get<int64_t>(key_of("global_every").get(config));
  const int64_t first = std::get<int64_t>(key_of("global_first").get(config));
  const int64_t period = model.window == 0 || every == 0 ? 1 : every;
  json::array kinds;
  for (int64_t i = 0; i < period; ++i)
    kinds.emplace_back(model.window == 0 || (every > 0 && i == first) ? "global" : "local");
  return json::array{json::array{kinds, (model.layers + period - 1) / period}};
}

json::value meant_for_them(const ConfigRow& row, const RunConfig& config) {
  if (row.meaning == Meaning::alternation) return alternation_of(config.model, config);
  const ConfigValue ours = key_of(row.key).get(config);
  DecoderConfig automatic = config.model;
  automatic.hidden = 0;
  const bool usual = std::string_view(row.key) == "hidden" && config.model.hidden == automatic.mlp();
  const auto zero = [&] { return usual || ours == ConfigValue(int64_t{0}); };
  switch (row.meaning) {
    case Meaning::word:
      for (const Wording& word : row.words)
        if (std::get<std::string>(ours) == word.ours) {
          if (std::string_view(word.theirs) == "true" || std::string_view(word.theirs) == "false")
            return std::string_view(word.theirs) == "true";
          return json::value(word.theirs);
        }
      return nullptr;  // cannot be said: reading it back will tell
    case Meaning::zero_is_null:
      return zero() ? json::value(nullptr) : setting_json(ours);
    case Meaning::zero_is_width:
      return zero() ? json::value(config.model.width) : setting_json(ours);
    case Meaning::rotated_dims:
      return std::llround(std::get<double>(ours) * static_cast<double>(config.model.head()));
    case Meaning::toggle:
      return std::get<std::string>(ours) == "on";
    default:
      return setting_json(ours);
  }
}

void put_member(json::object& root, std::string_view path, json::value value) {
  const size_t dot = path.find('.');
  if (dot == path.npos) {
    root[path] = std::move(value);
    return;
  }
  json::value& inner = root[path.substr(0, dot)];
  if (!inner.is_object()) inner = json::object();
  put_member(inner.as_object(), path.substr(dot + 1), std::move(value));
}

void pretty(const json::value& value, const std::string& indent, std::string& out) {
  const std::string deeper = indent + "  ";
  if (const json::object* object = value.if_object(); object && !object->empty()) {
    const char* separator = "{\n";
    for (const auto& member : *object) {
      out += separator + deeper + json_quote(member.key()) + ": ";
      pretty(member.value(), deeper, out);
      separator = ",\n";
    }
    out += "\n" + indent + "}";
  } else if (const double* real = value.if_double()) {
    std::string text = fmt::format("{}", *real);
    if (text.find_first_of(".en") == text.npos) text += ".0";
    out += text;
  } else {
    out += json::serialize(value);
  }
}

void resolve_positions(const DecoderConfig& model, const DecoderConfig& fresh, DecoderConfig& m) {
  const bool rotary = model.positions == Positions::rotary;
  if (!rotary) {
    m.rotary_base = fresh.rotary_base, m.rotary_fraction = fresh.rotary_fraction;
    m.rotary_interleaved = fresh.rotary_interleaved, m.rotary_scaling = fresh.rotary_scaling;
  }
  if (!rotary || model.rotary_scaling == RotaryScaling::none) {
    m.rotary_factor = fresh.rotary_factor, m.rotary_original_context = fresh.rotary_original_context;
    m.rotary_low = fresh.rotary_low, m.rotary_high = fresh.rotary_high, m.rotary_attention = fresh.rotary_attention;
  }
  const bool stretched = rotary && model.rotary_scaling != RotaryScaling::none;
  if (stretched && model.rotary_scaling != RotaryScaling::linear) {
    m.rotary_original_context = model.original_context();
    if (model.rotary_high == 0.0) m.rotary_high = model.rotary_scaling == RotaryScaling::yarn ? 32.0 : 4.0;
  }
  if (model.positions != Positions::t5)
    m.relative_buckets = fresh.relative_buckets, m.relative_distance = fresh.relative_distance;
  if (model.positions != Positions::learned && model.positions != Positions::sinusoidal) m.position_offset = 0;
}

Toggle said(bool on) { return on ? Toggle::on : Toggle::off; }

/// With what a 0 or an `automatic` stands for written out, and what no part of the model reads as in a fresh model.
RunConfig resolved(const DecoderConfig& model) {
  const DecoderConfig fresh;
  RunConfig config;
  DecoderConfig& m = config.model;
  m = model;
  m.kv_heads = model.kv(), m.head_size = model.head(), m.hidden = model.mlp();
  m.embedding_width = model.embedded() == model.width ? 0 : model.embedded();
  m.bias_qkv = said(model.has_qkv_bias()), m.bias_attention_output = said(model.has_attention_output_bias());
  m.bias_mlp = said(model.has_mlp_bias()), m.bias_norm = said(model.has_norm_bias());
  m.bias = fresh.bias;  // said by the four above
  m.final_norm = said(model.has_final_norm());
  m.attention_scale = model.score_scale(), m.embedding_scale = model.token_scale(), m.logit_scale = model.head_scale();
  m.deep_alpha = model.alpha(), m.deep_beta = model.beta();
  if (model.window == 0) m.window_from = m.global_every = m.global_first = 0;
  if (model.global_every == 0) m.global_first = 0;
  resolve_positions(model, fresh, m);
  return config;
}

bool never_matters(const std::string& leaf) { return leaf == "preset" || leaf == "init_std"; }

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

std::string write_model_config(const ModelFamily& family, const DecoderConfig& model, const ConfigExtras& extras) {
  const RunConfig config = resolved(model);
  json::object root;
  root["architectures"] = json::array{family.architecture};
  root["model_type"] = family.model_type;
  for (const ConfigRow& row : family.config) {
    if (!applies(row, config)) continue;
    json::value value = meant_for_them(row, config);
    const std::string path = split_at(row.json, '|').back();
    if (row.only_when_set && json::serialize(value) == json::serialize(json::parse(row.fallback))) continue;
    put_member(root, path, std::move(value));
  }
  for (const WantedMember& wanted : family.wanted) put_member(root, wanted.json, json::parse(wanted.value));
  if (extras.begin_token) root["bos_token_id"] = *extras.begin_token;
  if (extras.end_token) root["eos_token_id"] = *extras.end_token;
  root["torch_dtype"] = extras.dtype;
  std::string out;
  pretty(root, "", out);
  return out + "\n";
}

std::vector<std::string> model_differences(const DecoderConfig& a, const DecoderConfig& b) {
  std::vector<std::string> differences;
  const RunConfig before = resolved(a), after = resolved(b);
  for (const Key& key : config_keys()) {
    if (key.section() != "model" || never_matters(key.leaf())) continue;
    const ConfigValue was = key.get(before), is = key.get(after);
    if (was != is) differences.push_back(fmt::format("{}: {} -> {}", key.leaf(), to_toml(was), to_toml(is)));
  }
  return differences;
}

std::vector<std::string> settings_otherwise(const DecoderConfig& model, const std::vector<const char*>& settings) {
  const RunConfig config = resolved(model);
  std::vector<std::string> otherwise;
  for (const std::string_view setting : settings) {
    const size_t equals = setting.find('=');
    const std::string leaf(setting.substr(0, equals));
    const ConfigValue value = key_of(leaf.c_str()).get(config);
    const auto* word = std::get_if<std::string>(&value);
    const std::string got = word ? *word : to_toml(value);
    const std::vector<std::string> wanted = split_at(setting.substr(equals + 1), '|');
    if (std::find(wanted.begin(), wanted.end(), got) == wanted.end())
      otherwise.push_back(fmt::format("{} = {}, wanted {}", leaf, got, fmt::join(wanted, " or ")));
  }
  return otherwise;
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
