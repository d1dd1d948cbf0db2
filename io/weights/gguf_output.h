#pragma once
// A model as llama.cpp reads it: one GGUF file with the metadata of its architecture, the tokenizer, and the weights in
// the layout that its graphs expect (fused q, k, v in plain blocks; heads of `llama` turned to interleaved rotation).
// Which names and layouts is a table as for Hugging Face; the metadata follow from the model's switches.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "io/weights/gguf.h"
#include "io/weights/safetensors_output.h"

namespace capstan {

struct GgufModel {
  const ModelFamily* family = nullptr;  ///< its model_type is the architecture's name in GGUF
  GgufMetadata metadata;
  std::vector<std::pair<std::string, std::vector<float>>> constants;  ///< tensors that are no weights
  std::vector<std::string> notices;
};

/// Error config when llama.cpp has no architecture for the model, or its graph leaves out what the model computes.
GgufModel gguf_model(const DecoderConfig& model, const Tokenizer* tokenizer);

/// Tokens, types, scores or merges, and special ids. Without a tokenizer, or with one of a kind that llama.cpp does not
/// know, the file says so (and a notice does), and runs by token ids.
void add_gguf_tokenizer(const Tokenizer* tokenizer, int64_t vocabulary, GgufModel& out);

/// Vectors and position tables are f32 whatever the dtype, as llama.cpp's kernels want them.
void write_gguf(const std::filesystem::path& path, const GgufModel& described, const TensorMap& map,
                ParameterSource& source, std::optional<DType> dtype, const ProgressReport& progress);

}  // namespace capstan
