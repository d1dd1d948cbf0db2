#pragma once
// ConvertedModel: a model opened to be converted, from a run directory of ours, one of its checkpoints, a Hugging
// Face directory, or one in Meta's layout: its settings, its parameters by our names, and what travels with it
// (tokenizer, side files). What is read is hostile until it is opened; afterwards every parameter is known to be there
// with its shape.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint/checkpoint.h"
#include "io/tokenizer/tokenizer.h"
#include "io/weights/family_config.h"
#include "io/weights/parameter_source.h"

namespace capstan {

/// A file that leaves as it came.
struct TravellingFile {
  std::string name;
  std::string bytes;
};

struct ConvertedModel {
  std::string described;  ///< "Hugging Face llama", "step 40 of runs/mine"
  DecoderConfig model;
  const ModelFamily* family = nullptr;  ///< of a Hugging Face directory, or of what a run came from
  std::unique_ptr<TensorFiles> files;   ///< of a Hugging Face directory
  std::unique_ptr<TensorMap> map;
  std::unique_ptr<Checkpoint> checkpoint;  ///< of a run
  ParameterSet parameters;
  std::unique_ptr<ParameterSource> source;
  std::shared_ptr<const Tokenizer> tokenizer;  ///< null: there is none that can be read
  std::vector<TravellingFile> travelling;
  bool trained = false;  ///< since its weights came, or always here
  std::vector<std::string> notices;

  const std::string* travelling_file(std::string_view name) const;
};

/// `step` -1: the newest checkpoint of a run. Error missing_input, bad_data, config or io_error.
ConvertedModel open_model(const std::filesystem::path& path, int64_t step);

/// Weights of a Hugging Face directory alone: what was written, read back.
ConvertedModel open_hugging_face(const std::filesystem::path& directory, bool with_tokenizer);

/// params.json and consolidated.safetensors (io/weights/meta_layout.h).
ConvertedModel open_meta(const std::filesystem::path& directory);

bool is_hugging_face(const std::filesystem::path& path);
bool is_corpus(const std::filesystem::path& path);

}  // namespace capstan
