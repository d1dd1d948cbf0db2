#pragma once
// Decoder: a decoder-only transformer with switches (core/models/decoder_config.h); docs/models.md lists the families.
// Shape legend: B sequences, T tokens of each, C width, H query heads, G key/value heads, D head size, F MLP width, V
// vocabulary (padded to a multiple of kVocabularyPadding; padded columns never reach the loss).
//   x = token_embedding[tokens] (+ position_embedding[positions])                                        (B, T, C)
//   per layer:  x += o(attention(q(n), k(n), v(n))), n = norm(x);   x += down(act(up(n'))), n' = norm(x)
//   logits = head(norm(x)), head = token embedding when tied                                              (B, T, V)
// Tensor parallelism: q, k, v, gate and up are divided by outputs (heads), o and down by inputs, the embedding by
// vocabulary; the rest is whole. Keys and values of fewer heads than ranks are whole too: each rank reads what it
// needs.
// Parameters; matrices are [out, in], and each of these but the embeddings may have .weight and .bias:
//   token_embedding.weight [V, embedded]; embedding_projection.weight [C, embedded] (embedding_width);
//   position_embedding.weight [context + offset, C] (learned); embedding_norm [C] (embedding_norm);
//   relative_bias.weight [buckets, H] (t5);
//   layers.i.attention_norm, layers.i.mlp_norm [C] (parallel: attention_norm alone, for both branches; post and deep:
//   the norms of the sums after attention and after the MLP);
//   layers.i.attention.{q,k,v,o}, layers.i.attention.{q_norm,k_norm}.weight [D] (qk_norm);
//   layers.i.attention.relative.weight [H D, C], layers.i.attention.{u,v_relative}.bias [H D] (xl);
//   layers.i.mlp.{gate,up,down}; query_embedding.weight [context, C] (query_layer); final_norm [C];
//   head_projection.weight [embedded, C] (embedding_width); head.weight [V, embedded] unless tied; head.bias [V]
//   (head_bias).

#include <functional>
#include <string>
#include <vector>

#include "core/models/decoder_config.h"
#include "core/ops/attention.h"
#include "core/ops/norm.h"
#include "core/recorder.h"

namespace capstan {

constexpr int64_t kVocabularyPadding = 16;
/// Rows of an embedding so that any number of ranks divides it into multiples of kVocabularyPadding.
inline int64_t padded_vocabulary(int64_t vocabulary, int64_t ranks = 1) {
  const int64_t multiple = kVocabularyPadding * ranks;
  return (vocabulary + multiple - 1) / multiple * multiple;
}

/// What the decoder reads. Caches are present in prefill and decode plans: one k and one v per layer.
struct DecoderInputs {
  Value tokens;                                 ///< (B, T) i32
  Value positions;                              ///< (B, T) i32
  Value document_ids;                           ///< (B, T) i32 or absent
  Value key_lengths;                            ///< (B) i32 with caches
  Value prefix_lengths{};                       ///< (B) i32 or absent: tokens below it see each other (GLM)
  std::vector<Value> key_caches, value_caches;  ///< per layer (B, capacity, G D)
};

/// A persistent tensor whose contents follow from the config: written once, after memory was taken.
struct Constant {
  std::string name;
  TensorSpec spec;
  std::function<void(void*)> fill;
};

class Decoder {
 public:
  /// Declares the parameters, each with its placement on tp, which has `tensor_ranks`. `prefix` tells two decoders of
  /// one program apart.
  Decoder(const DecoderConfig& config, ParameterSet& parameters, const std::string& prefix = "", int tensor_ranks = 1);

  const DecoderConfig& config() const { return config_; }
  /// What the model reads besides its parameters: ALiBi's slopes, waves, T5's buckets by distance.
  std::vector<Constant> constants() const;
  void declare_constants(PersistentSpace& persistent) const;
  std::vector<float> alibi_slopes() const;

  /// The residual stream after the final norm (B, T, C).
  Value hidden(Recorder& recorder, const DecoderInputs& inputs) const;
  /// Logits of it (B, T, padded vocabulary).
  Value logits(Recorder& recorder, Value hidden) const;

  /// Names of a layer's caches; their width is G D.
  static std::string key_cache_name(int64_t layer);
  static std::string value_cache_name(int64_t layer);

 private:
  struct LinearParameters {
    int weight = -1, bias = -1;
  };
  struct NormParameters {
    int weight = -1, bias = -1;
  };
  struct Layer {
    NormParameters attention_norm, mlp_norm;
    LinearParameters q, k, v, o, gate, up, down;
    LinearParameters relative;     // xl
    int u = -1, v_relative = -1;   // xl
    int q_norm = -1, k_norm = -1;  // qk_norm
  };
  /// What all layers read.
  struct Shared {
    Value distance_bias;  // t5
  };
  /// The residual stream as x, and what the last branch adds to it: the next norm does so on its way.
  struct Stream {
    Value x, branch;
  };

  /// How a product is divided over tp: by outputs (weight and bias by rows), by inputs (weight by columns, the bias
  /// whole), or not.
  enum class Division { column, row, none };

  /// Units of parameters: the token embedding (which a tied head shares), what else is at the beginning, each layer,
  /// the end.
  static int unit_of_layer(int64_t index) { return static_cast<int>(2 + index); }

  struct LinearShape {
    Division division;
    int64_t out, in;
    double deviation;
    bool bias;
  };
  LinearParameters declare_linear(ParameterSet& set, const std::string& name, const LinearShape& shape);
  NormParameters declare_norm(ParameterSet& set, const std::string& name);
  int declare_vector(ParameterSet& set, const std::string& name, int64_t size, Init::Kind init, bool divided);
  int declare_table(ParameterSet& set, const std::string& name, int64_t rows, int64_t width);
  void declare_attention(ParameterSet& set, const std::string& base, Layer& layer);
  void declare_layer(ParameterSet& set, int64_t index);
  void declare_ends(ParameterSet& set, bool before);

  bool is_query_layer(int64_t index) const { return config_.query_layer && index + 1 == config_.layers; }
  NormResult normalise(Recorder& recorder, Value x, Value residual, const NormParameters& parameters) const;
  Value apply(Recorder& recorder, const LinearParameters& parameters, Value x) const;
  Value embed(Recorder& recorder, const DecoderInputs& inputs) const;
  Value distance_bias(Recorder& recorder) const;
  Value turn(Recorder& recorder, Value x, const DecoderInputs& inputs, int64_t heads) const;
  void relate(Recorder& recorder, const Layer& layer, Value& q, AttentionMaskSpec& mask) const;
  Value attend(Recorder& recorder, int64_t index, Value normed, const DecoderInputs& inputs,
               const Shared& shared) const;
  Value mlp(Recorder& recorder, const Layer& layer, Value normed) const;
  Value dropped(Recorder& recorder, Value branch, uint64_t site) const;
  Stream block(Recorder& recorder, int64_t index, Stream stream, const DecoderInputs& inputs,
               const Shared& shared) const;
  Stream block_after(Recorder& recorder, int64_t index, Value x, const DecoderInputs& inputs,
                     const Shared& shared) const;

  DecoderConfig config_;
  std::string prefix_;
  int tensor_ranks_;
  int unit_ = 0;  ///< of the parameters declared next
  int token_embedding_ = -1, position_embedding_ = -1, query_embedding_ = -1, relative_bias_ = -1, head_ = -1,
      head_bias_ = -1;
  LinearParameters embedding_projection_, head_projection_;
  std::vector<Layer> layers_;
  NormParameters embedding_norm_, final_norm_;
};

}  // namespace capstan
