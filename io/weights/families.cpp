#include "io/weights/family.h"

// The tables. Facts of Hugging Face transformers: names of classes, members and tensors, and the defaults of members
// that a config.json may leave out.

namespace capstan {
namespace {

using enum Meaning;
using enum RowPacking;

std::vector<Wording> activations() {
  return {{"gelu_new", "gelu_tanh"},         {"gelu_pytorch_tanh", "gelu_tanh"},
          {"gelu_fast", "gelu_tanh"},        {"gelu_accurate", "gelu_tanh"},
          {"gelu_python_tanh", "gelu_tanh"}, {"gelu", "gelu"},
          {"gelu_python", "gelu"},           {"relu", "relu"},
          {"relu2", "squared_relu"}};
}

std::vector<Wording> gated_activations() { return {{"silu", "swiglu"}, {"swish", "swiglu"}, {"gelu", "geglu"}}; }

template <typename Row>
std::vector<Row> rows_with(std::vector<Row> rows, const std::vector<Row>& more) {
  rows.insert(rows.end(), more.begin(), more.end());
  return rows;
}

/// Below "rope_scaling." everything is explicit (io/weights/rope_members.h): a fallback here is never used.
std::vector<ConfigRow> rope_scaling_rows() {
  const char* type = "rope_scaling.rope_type|rope_scaling.type|rope_scaling.rope_type";
  const char* original = "rope_scaling.original_max_position_embeddings";
  return {{type,
           "rotary_scaling",
           "\"default\"",
           word,
           {{"default", "none"}, {"linear", "linear"}, {"llama3", "llama3"}, {"yarn", "yarn"}},
           true},
          {"rope_scaling.factor", "rotary_factor", "", same, {}, false, "rotary_scaling=linear|llama3|yarn"},
          {original, "rotary_original_context", "", same, {}, false, "rotary_scaling=llama3|yarn"},
          {"rope_scaling.low_freq_factor", "rotary_low", "", same, {}, false, "rotary_scaling=llama3"},
          {"rope_scaling.high_freq_factor", "rotary_high", "", same, {}, false, "rotary_scaling=llama3"},
          {"rope_scaling.beta_slow", "rotary_low", "", same, {}, false, "rotary_scaling=yarn"},
          {"rope_scaling.beta_fast", "rotary_high", "", same, {}, false, "rotary_scaling=yarn"},
          {"rope_scaling.attention_factor", "rotary_attention", "0.0", same, {}, true, "rotary_scaling=yarn"}};
}

std::vector<ConfigRow> rope_rows() {
  return rows_with<ConfigRow>(
      {{"rope_scaling.rope_theta|rope_theta", "rotary_base", "10000.0"},
       {"rope_scaling.partial_rotary_factor|?partial_rotary_factor", "rotary_fraction", "1.0", always, {}, true}},
      rope_scaling_rows());
}

ConfigRow tied_row(const char* fallback) { return {"tie_word_embeddings", "tied", fallback}; }

// ---- GPT-1, GPT-2

std::vector<NameRow> conv1d_layer(const char* position_names) {
  const bool plural = std::string_view(position_names) == "gpt1";
  return {{"token_embedding", plural ? "transformer.tokens_embed" : "transformer.wte"},
          {"position_embedding", plural ? "transformer.positions_embed" : "transformer.wpe"},
          {"layers.#.attention_norm", "transformer.h.#.ln_1"},
          {"layers.#.attention.q", "transformer.h.#.attn.c_attn", stacked, true},
          {"layers.#.attention.k", "transformer.h.#.attn.c_attn", stacked, true},
          {"layers.#.attention.v", "transformer.h.#.attn.c_attn", stacked, true},
          {"layers.#.attention.o", "transformer.h.#.attn.c_proj", whole, true},
          {"layers.#.mlp_norm", "transformer.h.#.ln_2"},
          {"layers.#.mlp.up", "transformer.h.#.mlp.c_fc", whole, true},
          {"layers.#.mlp.down", "transformer.h.#.mlp.c_proj", whole, true},
          {"final_norm", "transformer.ln_f"},
          {"head", "lm_head"}};
}

ModelFamily gpt2() {
  return {"gpt2",
          "GPT2LMHeadModel",
          "transformer.",
          {"positions=learned", "norm=layer", "bias=true"},
          {{"scale_attn_weights", "true", "true"},
           {"scale_attn_by_inverse_layer_idx", "false", "false"},
           {"add_cross_attention", "false", "false"}},
          {{"vocab_size", "vocabulary", "50257"},
           {"max_position_embeddings|n_positions", "context", "1024"},
           {"hidden_size|n_embd", "width", "768"},
           {"num_hidden_layers|n_layer", "layers", "12"},
           {"num_attention_heads|n_head", "heads", "12"},
           {"n_inner", "hidden", "null", zero_is_null},
           {"activation_function", "activation", "\"gelu_new\"", word, activations()},
           {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
           tied_row("true")},
          conv1d_layer("gpt2")};
}

ModelFamily gpt1() {
  return {"openai-gpt",
          "OpenAIGPTLMHeadModel",
          "transformer.",
          {"positions=learned", "norm=layer", "norm_placement=post", "bias=true"},
          {},
          {{"vocab_size", "vocabulary", "40478"},
           {"max_position_embeddings|n_positions", "context", "512"},
           {"hidden_size|n_embd", "width", "768"},
           {"num_hidden_layers|n_layer", "layers", "12"},
           {"num_attention_heads|n_head", "heads", "12"},
           {"afn", "activation", "\"gelu\"", word, {{"gelu", "gelu_tanh"}, {"relu", "relu"}}},
           {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
           tied_row("true")},
          conv1d_layer("gpt1")};
}

// ---- GPT-Neo, GPT-J, GPT-NeoX

ModelFamily gpt_neo() {
  return {"gpt_neo",
          "GPTNeoForCausalLM",
          "transformer.",
          {"positions=learned", "norm=layer", "bias=true", "bias_qkv=off", "attention_scale=1.0"},
          {},
          {{"vocab_size", "vocabulary", "50257"},
           {"max_position_embeddings", "context", "2048"},
           {"hidden_size", "width", "2048"},
           {"num_hidden_layers|num_layers", "layers", "24"},
           {"num_attention_heads|num_heads", "heads", "16"},
           {"intermediate_size", "hidden", "null", zero_is_null},
           {"window_size", "window", "256", zero_is_absent},
           {"attention_layers|?attention_types", "global_every", "[[[\"global\", \"local\"], 12]]", alternation},
           {"activation_function", "activation", "\"gelu_new\"", word, activations()},
           {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
           tied_row("true")},
          {{"token_embedding", "transformer.wte"},
           {"position_embedding", "transformer.wpe"},
           {"layers.#.attention_norm", "transformer.h.#.ln_1"},
           {"layers.#.attention.q", "transformer.h.#.attn.attention.q_proj"},
           {"layers.#.attention.k", "transformer.h.#.attn.attention.k_proj"},
           {"layers.#.attention.v", "transformer.h.#.attn.attention.v_proj"},
           {"layers.#.attention.o", "transformer.h.#.attn.attention.out_proj"},
           {"layers.#.mlp_norm", "transformer.h.#.ln_2"},
           {"layers.#.mlp.up", "transformer.h.#.mlp.c_fc"},
           {"layers.#.mlp.down", "transformer.h.#.mlp.c_proj"},
           {"final_norm", "transformer.ln_f"},
           {"head", "lm_head"}}};
}

ModelFamily gptj() {
  return {"gptj",
          "GPTJForCausalLM",
          "transformer.",
          {"positions=rotary", "rotary_interleaved=true", "norm=layer", "norm_placement=parallel", "bias=true",
           "bias_qkv=off", "bias_attention_output=off", "head_bias=true"},
          {},
          {{"vocab_size", "vocabulary", "50400"},
           {"max_position_embeddings|n_positions", "context", "2048"},
           {"hidden_size|n_embd", "width", "4096"},
           {"num_hidden_layers|n_layer", "layers", "28"},
           {"num_attention_heads|n_head", "heads", "16"},
           {"rotary_dim", "rotary_fraction", "64", rotated_dims},
           {"n_inner", "hidden", "null", zero_is_null},
           {"activation_function", "activation", "\"gelu_new\"", word, activations()},
           {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
           tied_row("false")},
          {{"token_embedding", "transformer.wte"},
           {"layers.#.attention_norm", "transformer.h.#.ln_1"},
           {"layers.#.attention.q", "transformer.h.#.attn.q_proj"},
           {"layers.#.attention.k", "transformer.h.#.attn.k_proj"},
           {"layers.#.attention.v", "transformer.h.#.attn.v_proj"},
           {"layers.#.attention.o", "transformer.h.#.attn.out_proj"},
           {"layers.#.mlp.up", "transformer.h.#.mlp.fc_in"},
           {"layers.#.mlp.down", "transformer.h.#.mlp.fc_out"},
           {"final_norm", "transformer.ln_f"},
           {"head", "lm_head"}}};
}

ModelFamily gpt_neox(bool parallel) {
  return {
      "gpt_neox",
      "GPTNeoXForCausalLM",
      "gpt_neox.",
      {"positions=rotary", "norm=layer", parallel ? "norm_placement=parallel_two" : "norm_placement=pre", "bias=true"},
      {{"use_parallel_residual", parallel ? "true" : "false", "true"}},
      {{"vocab_size", "vocabulary", "50432"},
       {"max_position_embeddings", "context", "2048"},
       {"hidden_size", "width", "6144"},
       {"num_hidden_layers", "layers", "44"},
       {"num_attention_heads", "heads", "64"},
       {"intermediate_size", "hidden", "24576"},
       {"rope_scaling.partial_rotary_factor|rotary_pct", "rotary_fraction", "0.25"},
       {"rope_scaling.rope_theta|rotary_emb_base", "rotary_base", "10000"},
       {"rope_scaling.rope_type|rope_scaling.type|rope_scaling.rope_type",
        "rotary_scaling",
        "\"default\"",
        word,
        {{"default", "none"}, {"linear", "linear"}},
        true},
       {"rope_scaling.factor", "rotary_factor", "", same, {}, false, "rotary_scaling=linear"},
       {"hidden_act", "activation", "\"gelu\"", word, activations()},
       {"layer_norm_eps", "norm_epsilon", "1e-05"},
       {"attention_bias", "bias_qkv", "true", toggle},
       {"attention_bias", "bias_attention_output", "true", toggle},
       tied_row("false")},
      {{"token_embedding", "gpt_neox.embed_in"},
       {"layers.#.attention_norm", "gpt_neox.layers.#.input_layernorm"},
       {"layers.#.attention.q", "gpt_neox.layers.#.attention.query_key_value", grouped},
       {"layers.#.attention.k", "gpt_neox.layers.#.attention.query_key_value", grouped},
       {"layers.#.attention.v", "gpt_neox.layers.#.attention.query_key_value", grouped},
       {"layers.#.attention.o", "gpt_neox.layers.#.attention.dense"},
       {"layers.#.mlp_norm", "gpt_neox.layers.#.post_attention_layernorm"},
       {"layers.#.mlp.up", "gpt_neox.layers.#.mlp.dense_h_to_4h"},
       {"layers.#.mlp.down", "gpt_neox.layers.#.mlp.dense_4h_to_h"},
       {"final_norm", "gpt_neox.final_layer_norm"},
       {"head", "embed_out"}},
      RotaryOrder::half_split};
}

// ---- OPT, XGLM, BLOOM

std::vector<NameRow> fairseq_names(const std::string& base) {
  const bool opt = base == "opt";
  return {
      {"token_embedding", opt ? "model.decoder.embed_tokens" : "model.embed_tokens"},
      {"embedding_projection", "model.decoder.project_in"},
      {"position_embedding", "model.decoder.embed_positions"},
      {"layers.#.attention_norm",
       opt ? "model.decoder.layers.#.self_attn_layer_norm" : "model.layers.#.self_attn_layer_norm"},
      {"layers.#.attention.q", opt ? "model.decoder.layers.#.self_attn.q_proj" : "model.layers.#.self_attn.q_proj"},
      {"layers.#.attention.k", opt ? "model.decoder.layers.#.self_attn.k_proj" : "model.layers.#.self_attn.k_proj"},
      {"layers.#.attention.v", opt ? "model.decoder.layers.#.self_attn.v_proj" : "model.layers.#.self_attn.v_proj"},
      {"layers.#.attention.o", opt ? "model.decoder.layers.#.self_attn.out_proj" : "model.layers.#.self_attn.out_proj"},
      {"layers.#.mlp_norm", opt ? "model.decoder.layers.#.final_layer_norm" : "model.layers.#.final_layer_norm"},
      {"layers.#.mlp.up", opt ? "model.decoder.layers.#.fc1" : "model.layers.#.fc1"},
      {"layers.#.mlp.down", opt ? "model.decoder.layers.#.fc2" : "model.layers.#.fc2"},
      {"final_norm", opt ? "model.decoder.final_layer_norm" : "model.layer_norm"},
      {"head_projection", "model.decoder.project_out"},
      {"head", "lm_head"}};
}

ModelFamily opt(bool before) {
  return {"opt",
          "OPTForCausalLM",
          "model.",
          {"positions=learned", "position_offset=2", "norm=layer",
           before ? "norm_placement=pre" : "norm_placement=post", "bias=true"},
          {{"do_layer_norm_before", before ? "true" : "false", "true"},
           {"_remove_final_layer_norm", "false", "false"},
           {"enable_bias", "true", "true"},
           {"layer_norm_elementwise_affine", "true", "true"}},
          {{"vocab_size", "vocabulary", "50272"},
           {"max_position_embeddings", "context", "2048"},
           {"hidden_size", "width", "768"},
           {"num_hidden_layers", "layers", "12"},
           {"num_attention_heads", "heads", "12"},
           {"ffn_dim", "hidden", "3072"},
           {"word_embed_proj_dim", "embedding_width", "null", zero_is_width},
           {"activation_function", "activation", "\"relu\"", word, activations()},
           tied_row("true")},
          fairseq_names("opt")};
}

ModelFamily xglm(bool scaled) {
  return {"xglm",
          "XGLMForCausalLM",
          "model.",
          {"positions=sinusoidal", "position_offset=2", "norm=layer", "bias=true",
           scaled ? "embedding_scale=0.0" : "embedding_scale=1.0"},
          {{"scale_embedding", scaled ? "true" : "false", "true"}},
          {{"vocab_size", "vocabulary", "256008"},
           {"max_position_embeddings", "context", "2048"},
           {"hidden_size|d_model", "width", "1024"},
           {"num_hidden_layers|num_layers", "layers", "24"},
           {"num_attention_heads|attention_heads", "heads", "16"},
           {"ffn_dim", "hidden", "4096"},
           {"activation_function", "activation", "\"gelu\"", word, activations()},
           tied_row("true")},
          fairseq_names("xglm")};
}

ModelFamily bloom() {
  return {"bloom",
          "BloomForCausalLM",
          "transformer.",
          {"positions=alibi", "norm=layer", "embedding_norm=true", "activation=gelu_tanh", "bias=true"},
          {{"apply_residual_connection_post_layernorm", "false", "false"},
           {"slow_but_exact", "false", "false", "null", "pretraining_tp", "1"}},
          {{"vocab_size", "vocabulary", "250880"},
           {"?seq_length", "context", "2048", same, {}, true},
           {"?n_embed|hidden_size", "width", "64"},
           {"num_hidden_layers|n_layer", "layers", "2"},
           {"num_attention_heads|n_head", "heads", "8"},
           {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
           tied_row("true")},
          {{"token_embedding", "transformer.word_embeddings"},
           {"embedding_norm", "transformer.word_embeddings_layernorm"},
           {"layers.#.attention_norm", "transformer.h.#.input_layernorm"},
           {"layers.#.attention.q", "transformer.h.#.self_attention.query_key_value", grouped},
           {"layers.#.attention.k", "transformer.h.#.self_attention.query_key_value", grouped},
           {"layers.#.attention.v", "transformer.h.#.self_attention.query_key_value", grouped},
           {"layers.#.attention.o", "transformer.h.#.self_attention.dense"},
           {"layers.#.mlp_norm", "transformer.h.#.post_attention_layernorm"},
           {"layers.#.mlp.up", "transformer.h.#.mlp.dense_h_to_4h"},
           {"layers.#.mlp.down", "transformer.h.#.mlp.dense_4h_to_h"},
           {"final_norm", "transformer.ln_f"},
           {"head", "lm_head"}}};
}

// ---- LLaMA and those that followed it

std::vector<NameRow> llama_names() {
  return {{"token_embedding", "model.embed_tokens"},
          {"layers.#.attention_norm", "model.layers.#.input_layernorm"},
          {"layers.#.attention.q", "model.layers.#.self_attn.q_proj"},
          {"layers.#.attention.k", "model.layers.#.self_attn.k_proj"},
          {"layers.#.attention.v", "model.layers.#.self_attn.v_proj"},
          {"layers.#.attention.q_norm", "model.layers.#.self_attn.q_norm"},
          {"layers.#.attention.k_norm", "model.layers.#.self_attn.k_norm"},
          {"layers.#.attention.o", "model.layers.#.self_attn.o_proj"},
          {"layers.#.mlp_norm", "model.layers.#.post_attention_layernorm"},
          {"layers.#.mlp.gate", "model.layers.#.mlp.gate_proj"},
          {"layers.#.mlp.up", "model.layers.#.mlp.up_proj"},
          {"layers.#.mlp.down", "model.layers.#.mlp.down_proj"},
          {"final_norm", "model.norm"},
          {"head", "lm_head"}};
}

/// What a member is when the file leaves it out, by family.
struct LlamaDefaults {
  const char *vocabulary, *context, *width, *hidden, *layers, *heads, *kv_heads, *epsilon;
};

std::vector<ConfigRow> llama_rows(const LlamaDefaults& defaults) {
  return rows_with<ConfigRow>({{"vocab_size", "vocabulary", defaults.vocabulary},
                               {"max_position_embeddings", "context", defaults.context},
                               {"hidden_size", "width", defaults.width},
                               {"intermediate_size", "hidden", defaults.hidden},
                               {"num_hidden_layers", "layers", defaults.layers},
                               {"num_attention_heads", "heads", defaults.heads},
                               {"num_key_value_heads", "kv_heads", defaults.kv_heads, zero_is_null},
                               {"hidden_act", "activation", "\"silu\"", word, gated_activations()},
                               {"rms_norm_eps", "norm_epsilon", defaults.epsilon},
                               tied_row("false")},
                              rope_rows());
}

ModelFamily llama() {
  return {"llama",
          "LlamaForCausalLM",
          "model.",
          {"positions=rotary", "norm=rms", "bias=false"},
          {},
          rows_with<ConfigRow>(llama_rows({"32000", "2048", "4096", "11008", "32", "32", "null", "1e-06"}),
                               {{"head_dim", "head_size", "null", zero_is_null},
                                {"attention_bias", "bias_qkv", "false", toggle},
                                {"attention_bias", "bias_attention_output", "false", toggle},
                                {"mlp_bias", "bias_mlp", "false", toggle}}),
          llama_names(),
          RotaryOrder::half_split};
}

ModelFamily mistral() {
  return {"mistral",
          "MistralForCausalLM",
          "model.",
          {"positions=rotary", "norm=rms", "bias=false"},
          {},
          rows_with<ConfigRow>(llama_rows({"32000", "131072", "4096", "14336", "32", "32", "8", "1e-06"}),
                               {{"head_dim", "head_size", "null", zero_is_null},
                                {"sliding_window", "window", "4096", zero_is_null},
                                {"layer_types", "window", "null", layer_types, {}, true}}),
          llama_names(),
          RotaryOrder::half_split};
}

std::vector<ConfigRow> qwen_window_rows(bool window) {
  const ConfigRow types = {"layer_types", "global_every", "null", layer_types, {}, true};
  if (!window) return {types};
  return {{"sliding_window", "window", "4096", zero_is_null}, {"max_window_layers", "window_from", "28"}, types};
}

ModelFamily qwen2(bool window) {
  std::vector<ConfigRow> rows =
      rows_with<ConfigRow>(llama_rows({"151936", "32768", "4096", "22016", "32", "32", "32", "1e-06"}),
                           {{"head_dim", "head_size", "null", zero_is_null, {}, true}});
  rows = rows_with(rows, qwen_window_rows(window));
  return {"qwen2",
          "Qwen2ForCausalLM",
          "model.",
          {"positions=rotary", "norm=rms", "bias=false", "bias_qkv=on"},
          {{"use_sliding_window", window ? "true" : "false", "false"}},
          rows,
          llama_names(),
          RotaryOrder::half_split};
}

ModelFamily qwen3(bool window) {
  std::vector<ConfigRow> rows =
      rows_with<ConfigRow>(llama_rows({"151936", "32768", "4096", "22016", "32", "32", "32", "1e-06"}),
                           {{"head_dim", "head_size", "128"},
                            {"attention_bias", "bias_qkv", "false", toggle},
                            {"attention_bias", "bias_attention_output", "false", toggle}});
  rows = rows_with(rows, qwen_window_rows(window));
  return {"qwen3",
          "Qwen3ForCausalLM",
          "model.",
          {"positions=rotary", "norm=rms", "bias=false", "qk_norm=true"},
          {{"use_sliding_window", window ? "true" : "false", "false"}},
          rows,
          llama_names(),
          RotaryOrder::half_split};
}

// ---- Falcon

enum class FalconKind { grouped_two_norms, grouped_one_norm, multi_query, multi_query_serial, many };

ModelFamily falcon(FalconKind kind) {
  using enum FalconKind;
  const bool is_new = kind == grouped_two_norms || kind == grouped_one_norm, two = kind == grouped_two_norms;
  const bool serial = kind == multi_query_serial || kind == many;
  ModelFamily family{
      "falcon",
      "FalconForCausalLM",
      "transformer.",
      {"positions=rotary", "norm=layer", "bias=false", "bias_norm=on",
       two      ? "norm_placement=parallel_two"
       : serial ? "norm_placement=pre"
                : "norm_placement=parallel"},
      {{"new_decoder_architecture", is_new ? "true" : "false", "false", "false"}, {"alibi", "false", "false", "false"}},
      {{"vocab_size", "vocabulary", "65024"},
       {"max_position_embeddings", "context", "2048"},
       {"?n_embed|hidden_size", "width", "4544"},
       {"num_hidden_layers", "layers", "32"},
       {"num_attention_heads", "heads", "71"},
       {"ffn_hidden_size", "hidden", "null", zero_is_null},
       {"activation", "activation", "\"gelu\"", word, activations()},
       {"layer_norm_epsilon", "norm_epsilon", "1e-05"},
       {"bias", "bias_qkv", "false", toggle},
       {"bias", "bias_attention_output", "false", toggle},
       {"bias", "bias_mlp", "false", toggle},
       tied_row("true")},
      {{"token_embedding", "transformer.word_embeddings"},
       {"layers.#.attention_norm", two ? "transformer.h.#.ln_attn" : "transformer.h.#.input_layernorm"},
       {"layers.#.attention.q", "transformer.h.#.self_attention.query_key_value", grouped},
       {"layers.#.attention.k", "transformer.h.#.self_attention.query_key_value", grouped},
       {"layers.#.attention.v", "transformer.h.#.self_attention.query_key_value", grouped},
       {"layers.#.attention.o", "transformer.h.#.self_attention.dense"},
       {"layers.#.mlp_norm", two ? "transformer.h.#.ln_mlp" : "transformer.h.#.post_attention_layernorm"},
       {"layers.#.mlp.up", "transformer.h.#.mlp.dense_h_to_4h"},
       {"layers.#.mlp.down", "transformer.h.#.mlp.dense_4h_to_h"},
       {"final_norm", "transformer.ln_f"},
       {"head", "lm_head"}},
      RotaryOrder::half_split};
  family.config = rows_with(family.config, rope_rows());
  if (is_new) {
    family.config.push_back({"num_kv_heads", "kv_heads", "null", zero_is_null});
    family.wanted.push_back({"num_ln_in_parallel_attn", two ? "2" : "1", "2", "2"});
    family.wanted.push_back({"parallel_attn", "true", "true", "false"});
    return family;
  }
  if (kind != many) family.fixed.push_back("kv_heads=1");
  family.wanted.push_back({"multi_query", kind == many ? "false" : "true", "true", "false"});
  family.wanted.push_back({"parallel_attn", serial ? "false" : "true", "true", "false"});
  return family;
}

}  // namespace

const std::vector<ModelFamily>& families() {
  static const std::vector<ModelFamily> all = {gpt2(),
                                               llama(),
                                               mistral(),
                                               qwen2(false),
                                               qwen2(true),
                                               qwen3(false),
                                               qwen3(true),
                                               gpt1(),
                                               gpt_neo(),
                                               gptj(),
                                               gpt_neox(true),
                                               gpt_neox(false),
                                               opt(true),
                                               opt(false),
                                               xglm(true),
                                               xglm(false),
                                               bloom(),
                                               falcon(FalconKind::multi_query),
                                               falcon(FalconKind::grouped_two_norms),
                                               falcon(FalconKind::grouped_one_norm),
                                               falcon(FalconKind::multi_query_serial),
                                               falcon(FalconKind::many)};
  return all;
}

const std::vector<const char*>& constant_buffers() {
  static const std::vector<const char*> all = {
      ".attn.bias",      ".attn.masked_bias",      ".attn.attention.bias",   ".attn.attention.masked_bias",
      ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq",   ".rope_freqs.weight",
      ".rope.freqs",     ".position_ids",          "embed_positions.weights"};
  return all;
}

}  // namespace capstan
