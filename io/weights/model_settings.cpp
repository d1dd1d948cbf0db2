#include "io/weights/model_settings.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/config/keys.h"
#include "io/weights/family_rows.h"
#include "io/weights/window_rule.h"

namespace capstan {
namespace {

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

bool never_matters(const std::string& leaf) { return leaf == "preset" || leaf == "init_std"; }

}  // namespace

RunConfig resolved_settings(const DecoderConfig& model) {
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
  if (const auto rule = window_rule(windowed_layers(model), WindowRuleKind::from_first)) set_window_rule(m, *rule);
  resolve_positions(model, fresh, m);
  return config;
}

std::vector<std::string> model_differences(const DecoderConfig& a, const DecoderConfig& b) {
  std::vector<std::string> differences;
  const RunConfig before = resolved_settings(a), after = resolved_settings(b);
  for (const Key& key : config_keys()) {
    if (key.section() != "model" || never_matters(key.leaf())) continue;
    const ConfigValue was = key.get(before), is = key.get(after);
    if (was != is) differences.push_back(fmt::format("{}: {} -> {}", key.leaf(), to_toml(was), to_toml(is)));
  }
  return differences;
}

std::vector<std::string> settings_otherwise(const DecoderConfig& model, const std::vector<const char*>& settings) {
  const RunConfig config = resolved_settings(model);
  std::vector<std::string> otherwise;
  for (const char* text : settings) {
    const Setting setting = parse_setting(text);
    const ConfigValue value = model_key(setting.name).get(config);
    const auto* word = std::get_if<std::string>(&value);
    const std::string got = word ? *word : to_toml(value);
    const std::vector<std::string> wanted = split_at(setting.value, '|');
    if (std::find(wanted.begin(), wanted.end(), got) == wanted.end())
      otherwise.push_back(fmt::format("{} = {}, wanted {}", setting.name, got, fmt::join(wanted, " or ")));
  }
  return otherwise;
}

}  // namespace capstan
