#pragma once
// GenerationProgram: a decoder that continues a text, as two plans over one key/value cache: `prefill` pushes a chunk
// of the prompt through the layers and fills the caches (no logits), `decode` takes one token and gives the logits of
// the next. A chunk that is not full is padded: what it writes beyond the prompt is overwritten before it is ever
// visible.

#include <memory>
#include <vector>

#include "core/models/decoder.h"
#include "core/program.h"
#include "core/training_program.h"

namespace capstan {

class GenerationProgram {
 public:
  static constexpr int64_t kPrefillChunk = 64;

  GenerationProgram(const Mesh& mesh, const Device& device, const DecoderConfig& model, Precision precision);

  Program& program() { return program_; }
  const Decoder& model() const { return *model_; }
  int64_t context() const { return model_->config().context; }
  DType dtype() const { return activation_dtype(precision_); }
  /// Tokens in the cache.
  int64_t length() const { return length_; }

  /// Takes the arena and fills constants. The caller then fills the tensors named as the parameters.
  void allocate();
  void forget() { length_ = 0; }
  /// Pushes tokens into the cache; length() + tokens must stay within context().
  void prefill(const std::vector<int32_t>& tokens);
  /// Pushes one token; returns the logits of the next, one per entry of the vocabulary.
  std::vector<float> decode(int32_t token);

 private:
  void declare(DType dtype);
  void record(const std::string& plan, bool with_logits);

  Precision precision_;
  Program program_;
  std::unique_ptr<Decoder> model_;
  int64_t length_ = 0;
};

}  // namespace capstan
