#include "io/weights/family_config.h"

#include <boost/json.hpp>
#include <cmath>

#include "io/weights/config_members.h"
#include "io/weights/family_rows.h"
#include "io/weights/model_settings.h"
#include "io/weights/window_rule.h"

namespace capstan {
namespace json = boost::json;
namespace {

json::value setting_json(const ConfigValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return json::value(std::get<std::string>(value));
}

json::array kinds_of_layers(const DecoderConfig& model, const char* without, const char* with) {
  json::array kinds;
  for (const bool windowed : windowed_layers(model)) kinds.emplace_back(windowed ? with : without);
  return kinds;
}

/// As many repeats of the shortest period as fill the layers exactly.
json::value alternation_of(const DecoderConfig& model) {
  json::array kinds = kinds_of_layers(model, "global", "local");
  size_t period = 1;
  const auto repeats = [&] {
    for (size_t i = period; i < kinds.size(); ++i)
      if (kinds[i] != kinds[i - period]) return false;
    return true;
  };
  while (period < kinds.size() && (kinds.size() % period != 0 || !repeats())) ++period;
  const size_t times = kinds.empty() ? 0 : kinds.size() / period;
  kinds.resize(std::min(period, kinds.size()));
  return json::array{json::array{kinds, times}};
}

json::value meant_for_them(const ConfigRow& row, const RunConfig& config) {
  if (row.meaning == Meaning::alternation) return alternation_of(config.model);
  if (row.meaning == Meaning::layer_types)
    return config.model.global_every > 0 && std::string_view(row.key) != "window"
               ? json::value(kinds_of_layers(config.model, "full_attention", "sliding_attention"))
               : json::value(nullptr);
  const ConfigValue ours = model_key(row.key).get(config);
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

/// Whether a config.json says the same without this member: by its fallback, or as heads that share the width.
bool is_usual(const ConfigRow& row, const json::value& value, const DecoderConfig& model) {
  if (std::string_view(row.key) == "head_size" && model.head() * model.heads == model.width) return true;
  return json::serialize(value) == json::serialize(json::parse(row.fallback));
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

}  // namespace

std::string write_model_config(const ModelFamily& family, const DecoderConfig& model, const ConfigExtras& extras) {
  const RunConfig config = resolved_settings(model);
  json::object root;
  root["architectures"] = json::array{family.architecture};
  root["model_type"] = family.model_type;
  for (const ConfigRow& row : family.config) {
    if (!row_applies(row, config)) continue;
    json::value value = meant_for_them(row, config);
    std::string path = split_at(row.json, '|').back();
    if (path.front() == '?') path.erase(0, 1);
    if (row.meaning == Meaning::zero_is_absent && value == json::value(0)) continue;
    if (row.only_when_set && is_usual(row, value, model)) continue;
    put_member(root, path, std::move(value));
  }
  for (const WantedMember& wanted : family.wanted)
    if (*wanted.only_beside == '\0') put_member(root, wanted.json, json::parse(wanted.value));
  if (extras.begin_token) root["bos_token_id"] = *extras.begin_token;
  if (extras.end_token) root["eos_token_id"] = *extras.end_token;
  root["torch_dtype"] = extras.dtype;
  return pretty_json(root);
}

}  // namespace capstan
