#pragma once
// The switches of a decoder-only transformer: GPT-2 and LLaMA are two settings of this one struct.

#include <cstdint>
#include <string>

namespace capstan {

enum class Positions { none, learned, rotary, alibi };
enum class NormKind { layer, rms };
enum class Activation { gelu, gelu_tanh, relu, squared_relu, swiglu, geglu };  ///< gelu is the erf form

struct DecoderConfig {
  int64_t layers = 4;
  int64_t width = 128;
  int64_t heads = 4;
  int64_t kv_heads = 0;    ///< 0: as many as heads
  int64_t head_size = 0;   ///< 0: width / heads
  int64_t hidden = 0;      ///< width of the MLP; 0: 4 width, or 8/3 width rounded up to a multiple of 64 when gated
  int64_t context = 256;   ///< longest sequence, in tokens
  int64_t vocabulary = 0;  ///< 0: the corpus tokenizer's
  Positions positions = Positions::learned;
  double rotary_base = 10000.0;
  double rotary_fraction = 1.0;     ///< share of a head's dims that is rotated
  bool rotary_interleaved = false;  ///< pairs (2i, 2i+1) instead of (i, i + n/2)
  NormKind norm = NormKind::layer;
  double norm_epsilon = 1e-5;
  Activation activation = Activation::gelu_tanh;
  bool bias = true;    ///< in linear layers, and in layer norms
  bool tied = true;    ///< the head is the token embedding
  int64_t window = 0;  ///< sliding attention window in tokens; 0: whole context
  double init_std = 0.02;
  double dropout = 0.0;  ///< from train.dropout: embeddings, attention weights, residual branches

  bool gated() const { return activation == Activation::swiglu || activation == Activation::geglu; }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
  int64_t head() const { return head_size ? head_size : width / heads; }
  int64_t mlp() const { return hidden ? hidden : gated() ? (8 * width / 3 + 63) / 64 * 64 : 4 * width; }
};

}  // namespace capstan
