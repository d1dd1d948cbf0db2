#pragma once
// The switches of a decoder-only transformer: every family of docs/models.md is a setting of this one struct, and none
// has code of its own. Rule for readers: ask the functions below for what a 0 or an `automatic` stands for, never the
// field.

#include <cmath>
#include <cstdint>
#include <string>

namespace capstan {

/// How a token's place enters. sinusoidal: fixed waves are added (the first half of the dims sines, the second cosines,
/// frequencies exp(-k ln(10000) / (half - 1))); t5: a learned bias of each head by bucket of distance, one table for
/// all layers; xl: Transformer-XL's relative term, score = (q + u) k + (q + v) r(distance).
enum class Positions { none, learned, rotary, alibi, sinusoidal, t5, xl };
enum class RotaryScaling { none, linear, llama3, yarn };
enum class NormKind { layer, rms };
/// Where a layer's norms stand (n, n1, n2 are norms of x):
///   pre           x += attention(n(x));  x += mlp(n'(x))                            final norm
///   post          x = n(x + attention(x));  x = n'(x + mlp(x))                      no final norm
///   parallel      x += attention(n(x)) + mlp(n(x)), one norm (GPT-J, PaLM)          final norm
///   parallel_two  x += attention(n1(x)) + mlp(n2(x)) (NeoX)                         final norm
///   deep          x = n(alpha x + attention(x));  x = n'(alpha x + mlp(x)), DeepNorm; no final norm
enum class NormPlacement { pre, post, parallel, parallel_two, deep };
enum class Activation { gelu, gelu_tanh, relu, squared_relu, swiglu, geglu };  ///< gelu is the erf form
/// A switch that follows another one unless it is set.
enum class Toggle { automatic, off, on };

struct DecoderConfig {
  int64_t layers = 4;
  int64_t width = 128;
  int64_t heads = 4;
  int64_t kv_heads = 0;    ///< 0: as many as heads
  int64_t head_size = 0;   ///< 0: width / heads
  int64_t hidden = 0;      ///< width of the MLP; 0: 4 width, or 8/3 width rounded up to a multiple of 64 when gated
  int64_t context = 256;   ///< longest sequence, in tokens
  int64_t vocabulary = 0;  ///< 0: the corpus tokenizer's

  // Positions
  Positions positions = Positions::learned;
  int64_t position_offset = 0;  ///< learned: token p reads row p + offset of context + offset rows (OPT: 2);
                                ///< sinusoidal: token p gets the wave of p + offset (XGLM: 2)
  double rotary_base = 10000.0;
  double rotary_fraction = 1.0;     ///< share of a head's dims that is rotated
  bool rotary_interleaved = false;  ///< pairs (2i, 2i+1) instead of (i, i + n/2)
  RotaryScaling rotary_scaling = RotaryScaling::none;
  double rotary_factor = 1.0;           ///< of linear, llama3 and yarn: how much longer the context became
  int64_t rotary_original_context = 0;  ///< of llama3 and yarn; 0: context / rotary_factor
  double rotary_low = 1.0;              ///< llama3: low_freq_factor; yarn: beta_slow
  double rotary_high = 0.0;             ///< llama3: high_freq_factor, 0: 4; yarn: beta_fast, 0: 32
  double rotary_attention = 0.0;        ///< yarn: factor on q and k; 0: 0.1 ln(rotary_factor) + 1
  int64_t relative_buckets = 32;        ///< t5
  int64_t relative_distance = 128;      ///< t5: the last bucket begins here

  // Norms
  NormKind norm = NormKind::layer;
  NormPlacement norm_placement = NormPlacement::pre;
  double norm_epsilon = 1e-5;
  Toggle final_norm = Toggle::automatic;  ///< automatic: unless placement is post or deep
  bool embedding_norm = false;            ///< the sum of the embeddings is normalised (BLOOM, GLM)
  bool qk_norm = false;                   ///< queries and keys are RMS-normalised per head, before rotation (Qwen3)
  double deep_alpha = 0.0;                ///< placement deep; 0: (2 layers)^(1/4) (GLM: (2 layers)^(1/2))
  double deep_beta = 0.0;                 ///< placement deep, factor on initial v, o and MLP; 0: (8 layers)^(-1/4)

  // Attention
  double attention_scale = 0.0;  ///< of scores; 0: 1 / sqrt(head size) (GPT-Neo: 1)
  int64_t window = 0;            ///< sliding attention window in tokens; 0: whole context
  int64_t window_from = 0;       ///< layers before this one have no window (Qwen2)
  int64_t global_every = 0;      ///< of so many layers one has no window; 0: none (GPT-Neo: 2)
  int64_t global_first = 0;      ///< the first of these
  bool query_layer = false;      ///< the last layer's queries come from a position embedding (PanGu-alpha); the final
                                 ///< norm then stands before that layer, and none after it

  // MLP, embeddings, head
  Activation activation = Activation::gelu_tanh;
  int64_t embedding_width = 0;   ///< 0: width; else projected to width and, before the head, back (OPT-350M)
  double embedding_scale = 1.0;  ///< on token embeddings; 0: sqrt(width) (XGLM)
  double logit_scale = 1.0;      ///< on what the head reads; 0: 1 / sqrt(width) (PaLM)
  bool tied = true;              ///< the head is the token embedding
  bool head_bias = false;        ///< GPT-J

  // Biases: all of them, and apart
  bool bias = true;  ///< in linear layers, and in layer norms
  Toggle bias_qkv = Toggle::automatic, bias_attention_output = Toggle::automatic, bias_mlp = Toggle::automatic,
         bias_norm = Toggle::automatic;

  double init_std = 0.02;
  double dropout = 0.0;  ///< from train.dropout: embeddings, attention weights, residual branches

  bool gated() const { return activation == Activation::swiglu || activation == Activation::geglu; }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
  int64_t head() const { return head_size ? head_size : width / heads; }
  int64_t mlp() const { return hidden ? hidden : gated() ? (8 * width / 3 + 63) / 64 * 64 : 4 * width; }
  int64_t embedded() const { return embedding_width ? embedding_width : width; }
  int64_t rotary_dims() const {
    return static_cast<int64_t>(std::llround(rotary_fraction * static_cast<double>(head()))) / 2 * 2;
  }
  int64_t original_context() const {
    return rotary_original_context ? rotary_original_context
                                   : static_cast<int64_t>(std::llround(static_cast<double>(context) / rotary_factor));
  }
  double high_frequency() const {
    return rotary_high > 0.0 ? rotary_high : rotary_scaling == RotaryScaling::yarn ? 32.0 : 4.0;
  }
  double rotary_amplitude() const {
    if (rotary_scaling != RotaryScaling::yarn) return 1.0;
    return rotary_attention > 0.0 ? rotary_attention : 0.1 * std::log(rotary_factor) + 1.0;
  }
  double score_scale() const {
    return attention_scale > 0.0 ? attention_scale : 1.0 / std::sqrt(static_cast<double>(head()));
  }
  double token_scale() const { return embedding_scale > 0.0 ? embedding_scale : std::sqrt(static_cast<double>(width)); }
  double head_scale() const { return logit_scale > 0.0 ? logit_scale : 1.0 / std::sqrt(static_cast<double>(width)); }
  double alpha() const {
    return norm_placement != NormPlacement::deep ? 1.0
           : deep_alpha > 0.0                    ? deep_alpha
                                                 : std::pow(2.0 * static_cast<double>(layers), 0.25);
  }
  double beta() const {
    return norm_placement != NormPlacement::deep ? 1.0
           : deep_beta > 0.0                     ? deep_beta
                                                 : std::pow(8.0 * static_cast<double>(layers), -0.25);
  }
  /// Norms after the sum with the residual.
  bool norms_after() const { return norm_placement == NormPlacement::post || norm_placement == NormPlacement::deep; }
  bool parallel_block() const {
    return norm_placement == NormPlacement::parallel || norm_placement == NormPlacement::parallel_two;
  }
  bool has_final_norm() const { return final_norm == Toggle::automatic ? !norms_after() : final_norm == Toggle::on; }
  bool has_mlp_norm() const { return norm_placement != NormPlacement::parallel; }
  /// The window of layer i, 0 where it has none.
  int64_t window_of(int64_t i) const {
    return i < window_from || (global_every > 0 && i % global_every == global_first) ? 0 : window;
  }
  /// Whether a parameter has a row for each place of the context, so that a shorter one is another model.
  bool has_table_of_context() const { return positions == Positions::learned || query_layer; }
  bool has_bias(Toggle toggle) const { return toggle == Toggle::automatic ? bias : toggle == Toggle::on; }
  bool has_qkv_bias() const { return has_bias(bias_qkv); }
  bool has_attention_output_bias() const { return has_bias(bias_attention_output); }
  bool has_mlp_bias() const { return has_bias(bias_mlp); }
  bool has_norm_bias() const { return norm == NormKind::layer && has_bias(bias_norm); }
};

}  // namespace capstan
