#include "io/weights/meta_layout.h"

#include <cmath>

#include "core/error.h"
#include "io/weights/family_config.h"

namespace capstan {
namespace {

using enum Meaning;

constexpr double kWidestMetaDim =
    1 << 24;  // of a dim: beyond it a formula's result is refused before it becomes an integer

Error bad_meta_param(const std::string& where, std::string_view member, std::string_view wanted) {
  return Error::make(ExitCode::bad_data, "{}: {}: wanted {}", where, member, wanted);
}

/// A number within 0 .. 2^24; the fallback when it is not there or null.
double meta_number(const JsonValue& root, const char* member, double fallback, const std::string& where) {
  const JsonValue* found = root.find(member);
  if (found == nullptr || std::holds_alternative<std::nullptr_t>(found->content())) return fallback;
  const double number = found->number(where + ": " + member);
  if (!(number >= 0.0 && number <= kWidestMetaDim)) throw bad_meta_param(where, member, "a number between 0 and 2^24");
  return number;
}

/// Width of the MLP by the formula of LLaMA's own code: two thirds of 4 dim, times a factor, up to a multiple.
uint64_t meta_hidden(const JsonValue& root, const std::string& where) {
  const double dim = meta_number(root, "dim", 0.0, where), multiple = meta_number(root, "multiple_of", 0.0, where);
  if (dim < 1.0 || multiple < 1.0 || multiple != std::floor(multiple))
    throw bad_meta_param(where, "hidden_dim", "a number, or dim and multiple_of");
  const double hidden = std::floor(meta_number(root, "ffn_dim_multiplier", 1.0, where) * std::floor(8.0 * dim / 3.0));
  if (hidden > kWidestMetaDim) throw bad_meta_param(where, "ffn_dim_multiplier", "less: the MLP is wider than 2^24");
  return static_cast<uint64_t>(std::ceil(hidden / multiple) * multiple);
}

bool meta_says_nothing(const JsonValue& root, const char* member) {
  const JsonValue* found = root.find(member);
  return found == nullptr || std::holds_alternative<std::nullptr_t>(found->content());
}

void set_meta_param(JsonValue& root, const char* member, uint64_t value) {
  JsonValue::Object& members = std::get<JsonValue::Object>(root.content());
  for (JsonMember& there : members)
    if (there.name == member) {
      there.value = JsonValue(value);
      return;
    }
  members.push_back({member, JsonValue(value)});
}

/// LLaMA 1 and 2 say vocab_size -1: the tokenizer's. The table has as many rows.
void complete_meta_params(JsonValue& root, const TensorFiles& files, const std::string& where) {
  const JsonValue* vocabulary = root.find("vocab_size");
  const bool unsaid =
      meta_says_nothing(root, "vocab_size") ||
      (std::holds_alternative<int64_t>(vocabulary->content()) && std::get<int64_t>(vocabulary->content()) == -1);
  if (unsaid) {
    const StoredTensor* table = files.find("tok_embeddings.weight");
    if (table == nullptr || table->shape.size() != 2)
      throw bad_meta_param(where, "vocab_size", "a number, or a matrix tok_embeddings.weight");
    set_meta_param(root, "vocab_size", static_cast<uint64_t>(table->shape[0]));
  }
  if (meta_says_nothing(root, "hidden_dim")) set_meta_param(root, "hidden_dim", meta_hidden(root, where));
}

}  // namespace

const ModelFamily& meta_family() {
  static const ModelFamily family = {"meta",
                                     "Transformer",
                                     "",
                                     {"positions=rotary", "norm=rms", "bias=false", "activation=swiglu"},
                                     {{"use_scaled_rope", "false", "false", "false"},
                                      {"rope_scaling", "null", "null"},
                                      {"yarn", "null", "null"},
                                      {"moe", "null", "null"},
                                      {"vision_encoder", "null", "null"},
                                      {"quantization", "null", "null"},
                                      {"qk_norm", "false", "false", "false"}},
                                     {{"vocab_size", "vocabulary"},
                                      {"?max_seq_len|?max_position_embeddings", "context", "4096"},
                                      {"dim", "width"},
                                      {"hidden_dim", "hidden"},
                                      {"n_layers", "layers"},
                                      {"n_heads", "heads"},
                                      {"n_kv_heads", "kv_heads", "null", zero_is_null},
                                      {"head_dim", "head_size", "null", zero_is_null},
                                      {"norm_eps", "norm_epsilon", "1e-05"},
                                      {"rope_theta", "rotary_base", "10000.0"},
                                      {"sliding_window", "window", "null", zero_is_null},
                                      {"tied_embeddings", "tied", "false"}},
                                     {{"token_embedding", "tok_embeddings"},
                                      {"layers.#.attention_norm", "layers.#.attention_norm"},
                                      {"layers.#.attention.q", "layers.#.attention.wq"},
                                      {"layers.#.attention.k", "layers.#.attention.wk"},
                                      {"layers.#.attention.v", "layers.#.attention.wv"},
                                      {"layers.#.attention.o", "layers.#.attention.wo"},
                                      {"layers.#.mlp_norm", "layers.#.ffn_norm"},
                                      {"layers.#.mlp.gate", "layers.#.feed_forward.w1"},
                                      {"layers.#.mlp.up", "layers.#.feed_forward.w3"},
                                      {"layers.#.mlp.down", "layers.#.feed_forward.w2"},
                                      {"final_norm", "norm"},
                                      {"head", "output"}},
                                     RotaryOrder::interleaved};
  return family;
}

DecoderConfig read_meta_params(std::string_view text, const TensorFiles& files, const std::string& where) {
  JsonValue root = parse_model_config(text, where);
  complete_meta_params(root, files, where);
  return read_family_config(meta_family(), root, where);
}

}  // namespace capstan
