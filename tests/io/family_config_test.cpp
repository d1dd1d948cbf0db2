// label: cpu
// A config.json read as transformers reads it: what a null means, which of two members that say the same counts, what
// is refused by name. The wanted settings are what transformers 5 computes with the same members.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "io/weights/family_config.h"
#include "io/weights/model_settings.h"
#include "io/weights/window_rule.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Sizes of a small model of each family.
const std::map<std::string, std::string> kSizes = {
    {"openai-gpt", R"("vocab_size": 61, "n_positions": 16, "n_embd": 32, "n_layer": 4, "n_head": 4)"},
    {"gpt2", R"("vocab_size": 61, "n_positions": 16, "n_embd": 32, "n_layer": 4, "n_head": 4)"},
    {"gptj", R"("vocab_size": 61, "n_positions": 16, "n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4)"},
    {"gpt_neo", R"("vocab_size": 61, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 3)"},
    {"gpt_neox", R"("vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4)"},
    {"opt", R"("vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4)"},
    {"xglm", R"("vocab_size": 61, "d_model": 32, "num_layers": 4, "attention_heads": 4)"},
    {"bloom", R"("vocab_size": 61, "hidden_size": 32, "n_layer": 4, "n_head": 4)"},
    {"falcon", R"("vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4)"},
};

std::string config_text(const std::string& type, const std::string& members) {
  const std::string llama = R"("vocab_size": 61, "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 16, "max_position_embeddings": 64)";
  const auto sizes = kSizes.find(type);
  return "{\"model_type\": \"" + type + "\", " + (sizes == kSizes.end() ? llama : sizes->second) +
         (members.empty() ? "" : ", " + members) + "}";
}

struct Said {
  const char *type, *members;
  std::vector<const char*> settings;
};

const Said kSaid[] = {
    // A null is what the class does with it, not the default.
    {"mistral", R"("sliding_window": null)", {"window=0"}},
    {"mistral", "", {"window=4096", "kv_heads=8"}},
    {"mistral", R"("sliding_window": 4, "num_key_value_heads": null)", {"window=4", "kv_heads=16"}},
    {"qwen2", R"("num_key_value_heads": null)", {"kv_heads=16"}},
    {"qwen2", R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": null)", {"window=0"}},
    {"qwen3", R"("num_key_value_heads": null, "head_dim": 8)", {"kv_heads=16", "head_size=8"}},
    {"llama", R"("rope_scaling": null, "rope_theta": 500.0)", {"rotary_base=500.0", "rotary_scaling=none"}},
    {"falcon", R"("multi_query": null, "parallel_attn": null)", {"kv_heads=4", "norm_placement=pre"}},
    {"bloom", R"("n_embed": null)", {"width=32"}},
    {"bloom", R"("slow_but_exact": true)", {"width=32"}},
    {"bloom", R"("slow_but_exact": false, "pretraining_tp": 4)", {"width=32"}},
    // Names that stand for others.
    {"openai-gpt", R"("num_attention_heads": 2)", {"heads=2"}},
    {"gpt2",
     R"("num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 16, "max_position_embeddings": 8)",
     {"heads=2", "layers=3", "width=16", "context=8"}},
    {"gptj", R"("num_attention_heads": 2)", {"heads=2"}},
    {"gpt_neo",
     R"("num_attention_heads": 2, "num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]])",
     {"heads=2", "layers=2"}},
    {"xglm",
     R"("num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 3)",
     {"heads=2", "width=16", "layers=3"}},
    {"bloom", R"("num_attention_heads": 2, "n_embed": 16)", {"heads=2", "width=16"}},
    {"falcon", R"("n_head": 2, "n_layer": 1, "n_embed": 16)", {"heads=4", "layers=4", "width=16"}},
    // Which layers have a window.
    {"qwen2",
     R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 3, "max_window_layers": 1)",
     {"window=3", "window_from=1", "global_every=0"}},
    {"qwen2",
     R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 3, "max_window_layers": 28)",
     {"window=0"}},
    {"qwen2",
     R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 3, "max_window_layers": 28,
      "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"])",
     {"window=3", "window_from=2", "global_every=0"}},
    {"qwen3",
     R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 3, "layer_types":
      ["sliding_attention", "full_attention", "sliding_attention", "full_attention"])",
     {"window=3", "window_from=0", "global_every=2", "global_first=1"}},
    {"qwen3",
     R"("num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 3, "max_window_layers": 0,
      "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"])",
     {"window=0"}},
    {"mistral",
     R"("num_key_value_heads": 2, "sliding_window": 3, "layer_types":
      ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention"])",
     {"window=3"}},
    {"gpt_neo",
     R"("attention_types": [[["global", "local"], 2]], "attention_layers":
      ["local", "global", "local", "global"])",
     {"window=3", "global_every=2", "global_first=1"}},
    {"gpt_neo", R"("attention_types": [[["global"], 2], [["local"], 2]])", {"window=3", "window_from=2"}},
    {"gpt_neo", R"("attention_types": [[["global", "local", "local", "local"], 1]])", {"window=3", "window_from=1"}},
    {"gpt_neo", R"("attention_types": [[["global"], 4]])", {"window=0"}},
    // Rotation.
    {"llama",
     R"("rope_scaling": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}, "rope_theta": 7.0)",
     {"rotary_base=500.0", "rotary_factor=2.0"}},
    {"llama", R"("rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0})", {"rotary_scaling=none"}},
    {"llama",
     R"("rope_scaling": {"type": "default", "rope_type": "linear", "factor": 2.0})",
     {"rotary_scaling=linear", "rotary_factor=2.0"}},
    {"llama", R"("rope_parameters": {"type": "linear", "factor": 2.0})", {"rotary_scaling=linear"}},
    {"llama",
     R"("rope_parameters": {"rope_type": "default", "rope_theta": 5.0},
      "rope_scaling": {"rope_type": "linear", "factor": 2.0})",
     {"rotary_scaling=linear", "rotary_base=10000.0"}},
    {"llama",
     R"("rope_scaling": {"type": "yarn", "factor": 4.0})",
     {"rotary_original_context=64", "rotary_attention=0.0", "rotary_high=32.0", "rotary_low=1.0"}},
    {"llama",
     R"("rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0})",
     {"rotary_original_context=64"}},
    {"llama",
     R"("original_max_position_embeddings": 8,
      "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})",
     {"rotary_original_context=8"}},
    {"llama",
     R"("rope_scaling": {"type": "yarn", "factor": null, "original_max_position_embeddings": 16})",
     {"rotary_factor=4.0"}},
    {"llama",
     R"("rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 0, "beta_slow": null})",
     {"rotary_high=32.0", "rotary_low=1.0"}},
    {"llama",
     R"("rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0})",
     {"rotary_attention=1.0"}},
    {"llama", R"("rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0})", {"rotary_attention=0.0"}},
    {"llama",
     R"("rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 1.0,
      "attention_factor": 1.25})",
     {"rotary_attention=1.25"}},
    {"gpt_neox",
     R"("rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 55.0}, "rotary_pct": 0.5,
      "rotary_emb_base": 700)",
     {"rotary_base=55.0", "rotary_fraction=0.5"}},
};

TEST(FamilyConfig, SaysWhatTransformersWouldCompute) {
  for (const Said& said : kSaid) {
    const std::string text = config_text(said.type, said.members);
    DecoderConfig model;
    ASSERT_NO_THROW(model = read_model_config(text, "config.json").model) << text;
    std::vector<const char*> settings = said.settings;
    EXPECT_THAT(settings_otherwise(model, settings), IsEmpty()) << text;
  }
}

TEST(FamilyConfig, WhatWasReadIsWrittenSoThatItSaysTheSame) {
  for (const Said& said : kSaid) {
    const std::string text = config_text(said.type, said.members);
    const DecoderConfig model = read_model_config(text, "config.json").model;
    const std::string written = write_model_config(family_for(model, said.type), model, {});
    EXPECT_THAT(model_differences(model, read_model_config(written, "written").model), IsEmpty()) << text << written;
    EXPECT_EQ(written.find('?'), written.npos) << written;
  }
}

TEST(FamilyConfig, AnAbsentWindowIsWrittenAsNull) {
  const DecoderConfig model =
      read_model_config(config_text("mistral", R"("num_key_value_heads": 2, "sliding_window": null)"), "c").model;
  EXPECT_THAT(write_model_config(family_for(model, "mistral"), model, {}), HasSubstr("\"sliding_window\": null"));
}

struct Refused {
  const char *type, *members, *named;
};

const Refused kRefused[] = {
    {"gpt2", R"("n_inner": 0)", "n_inner: wanted at least 1, got 0"},
    {"gpt2", R"("num_attention_heads": null)", "num_attention_heads"},
    {"gpt2", R"("activation_function": null)", "activation_function"},
    {"gpt2", R"("tie_word_embeddings": null)", "tie_word_embeddings"},
    {"llama", R"("num_key_value_heads": 0)", "num_key_value_heads: wanted at least 1, got 0"},
    {"llama", R"("head_dim": 0)", "head_dim"},
    {"mistral", R"("sliding_window": 0)", "sliding_window: wanted at least 1, got 0"},
    {"qwen3", R"("head_dim": null)", "head_dim"},
    {"falcon", R"("bias": null)", "bias: wanted true or false, got null"},
    {"falcon", R"("alibi": "false")", "alibi = \"false\", wanted false"},
    // windows
    {"qwen2", R"("layer_types": ["full_attention", "full_attention", "full_attention", "sliding_attention"])",
     "layer_types: wanted no layer with a window"},
    {"qwen2", R"("use_sliding_window": true, "layer_types": ["sliding_attention"])", "layer_types: wanted as many"},
    {"qwen2", R"("use_sliding_window": true, "layer_types": ["chunked_attention"])",
     "layer_types: wanted full_attention or sliding_attention, got \"chunked_attention\""},
    {"qwen2", R"("use_sliding_window": true, "layer_types":
      ["sliding_attention", "full_attention", "full_attention", "sliding_attention"])",
     "layer_types: wanted windows"},
    {"mistral", R"("sliding_window": 3, "layer_types":
      ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"])",
     "layer_types"},
    {"gpt_neo", "", "attention_types"},  // the default is of 24 layers
    {"gpt_neo", R"("attention_layers": null)", "attention_layers"},
    {"gpt_neo", R"("attention_types": [[["global", "local"], 1e300]])", "attention_types"},
    // rotation
    {"llama", R"("rope_parameters": "default")", "rope_parameters: wanted an object or null, got \"default\""},
    {"llama", R"("rope_parameters": [1])", "rope_parameters: wanted an object or null, got a list"},
    {"llama", R"("rope_scaling": "linear")", "rope_scaling: wanted an object or null, got \"linear\""},
    {"llama", R"("rope_scaling": {"rope_type": "linear"})", "rope_scaling.factor: wanted a number, got none"},
    {"llama", R"("rope_parameters": {"rope_type": "linear", "factor": null})", "rope_parameters.factor"},
    {"llama", R"("rope_parameters": {"rope_type": "dynamic", "factor": 2.0})", "rope_parameters.rope_type"},
    {"llama", R"("rope_scaling": {"rope_type": null, "factor": 2.0})", "rope_scaling.rope_type"},
    {"llama", R"("rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": false})", "rope_scaling.truncate"},
    {"llama", R"("rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 0})", "attention_factor"},
    {"llama", R"("rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": null})",
     "original_max_position_embeddings"},
    {"llama", R"("rope_scaling": {"type": "llama3", "factor": 4.0, "high_freq_factor": 4.0})", "low_freq_factor"},
    {"llama", R"("rope_scaling": {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 0})",
     "high_freq_factor"},
    {"llama", R"("rope_parameters": {"full_attention": {"rope_type": "default"}})", "rope_parameters.full_attention"},
    {"llama", R"("rope_theta": null)", "rope_theta"},
    {"llama", R"("partial_rotary_factor": 0.5)", "partial_rotary_factor"},
    // flags, each by its own name and not by that which tells a family's kinds apart
    {"bloom", R"("slow_but_exact": true, "pretraining_tp": 2)", "slow_but_exact = true, wanted false"},
    {"opt", R"("enable_bias": false)", "cannot be read: enable_bias = false, wanted true"},
    {"opt", R"("_remove_final_layer_norm": true)", "cannot be read: _remove_final_layer_norm = true, wanted false"},
    {"opt", R"("layer_norm_elementwise_affine": false, "do_layer_norm_before": false)",
     "cannot be read: layer_norm_elementwise_affine = false"},
    {"falcon", R"("alibi": true, "new_decoder_architecture": true)", "cannot be read: alibi = true, wanted false"},
    {"llama", R"("quantization_config": {"quant_method": "gptq"})", "quantization_config"},
    {"llama", R"("per_layer_config": {"0": {"num_attention_heads": 2}})", "per_layer_config"},
};

TEST(FamilyConfig, RefusesByNameWhatItCannotSay) {
  for (const Refused& refused : kRefused) {
    const std::string text = config_text(refused.type, refused.members);
    EXPECT_THAT(support::refusal_of(ExitCode::bad_data, [&] { read_model_config(text, "config.json"); }),
                HasSubstr(refused.named))
        << text;
  }
}

/// Of all lists of up to nine layers: the rule that is found says the list, and none is missed.
TEST(FamilyConfig, WindowsLayerByLayerAreOneRuleOrNone) {
  for (int64_t layers = 1; layers <= 9; ++layers) {
    std::set<std::vector<bool>> can_be_said;
    DecoderConfig model;
    model.layers = layers, model.window = 5;
    for (model.window_from = 0; model.window_from <= layers; ++model.window_from)
      for (model.global_every = 0; model.global_every <= layers; ++model.global_every)
        for (model.global_first = 0; model.global_first < std::max<int64_t>(1, model.global_every);
             ++model.global_first)
          can_be_said.insert(windowed_layers(model));
    for (unsigned list = 0; list < 1U << layers; ++list) {
      std::vector<bool> windowed;
      for (int64_t i = 0; i < layers; ++i) windowed.push_back((list >> i & 1U) != 0);
      for (const auto kind : {WindowRuleKind::from_first, WindowRuleKind::periodic}) {
        const std::optional<WindowRule> rule = window_rule(windowed, kind);
        ASSERT_EQ(rule.has_value(), can_be_said.contains(windowed)) << layers << " layers, list " << list;
        if (!rule) continue;
        model.window = 5;
        set_window_rule(model, *rule);
        ASSERT_TRUE(windowed_layers(model) == windowed) << layers << " layers, list " << list;
      }
    }
  }
}

}  // namespace
}  // namespace capstan
