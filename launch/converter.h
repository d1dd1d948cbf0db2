#pragma once
// Converter: one conversion from beginning to end. Everything is written under a name that ends in .partial, proved
// there, and renamed: killed at any instant it leaves nothing under a final name. Formats: `capstan`, a run directory
// that generate, evaluate and train take; `hf`, a Hugging Face directory; `gguf`, one file; `megatron`, PREFIX.bin and
// PREFIX.idx of a corpus.

#include <cstdint>
#include <optional>
#include <string>

#include "io/weights/safetensors_output.h"
#include "kernels/types.h"
#include "launch/console.h"

namespace capstan {

struct ConversionRequest {
  std::string from, to;
  enum class Format { hf, megatron, gguf, capstan } format = Format::capstan;
  std::optional<DType> dtype;  ///< none: as stored
  uint64_t shard_bytes = 5'000'000'000;
  int64_t step = -1;
  bool verify = true;
  uint64_t memory = uint64_t{3} << 30;  ///< for the models that the proof runs
  int threads = 0;
  std::string split = "train";  ///< megatron
  std::string family;           ///< hf: model_type; empty: the one that fits
};

/// Error of any kind; then nothing stands under the name `to`.
void convert(const ConversionRequest& request, Console& console);

}  // namespace capstan
