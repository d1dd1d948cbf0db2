#pragma once
// Weights as Hugging Face keeps them: model.safetensors, or shards of a given size with their index. Tensors stream
// from the source block by block; a shard's bytes are synced before its name is used. Rule for callers: write into a
// directory with a name that nobody trusts yet, and rename the whole when everything is in it.

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/weights/parameter_source.h"

namespace capstan {

struct OutputProgress {
  uint64_t bytes = 0, total = 0;
};
using ProgressReport = std::function<void(const OutputProgress&)>;

struct WrittenFile {
  std::string name;
  uint64_t bytes = 0;
  Digest128 digest;
};

/// The type a tensor of theirs is written in: `wanted`, or the widest of what its parameters are stored in.
DType output_dtype(const MappedTensor& tensor, const ParameterSource& source, std::optional<DType> wanted);

/// Returns the files of weights, in order. Error usage before anything is written where they would be too many to be
/// read again.
std::vector<WrittenFile> write_safetensors(const std::filesystem::path& directory, const TensorMap& map,
                                           ParameterSource& source, std::optional<DType> dtype, uint64_t shard_bytes,
                                           const ProgressReport& progress, size_t most_files = kMaxShards);

}  // namespace capstan
