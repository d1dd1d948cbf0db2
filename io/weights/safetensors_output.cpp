#include "io/weights/safetensors_output.h"

#include <algorithm>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/json_events.h"
#include "io/safetensors.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

struct Output {
  const MappedTensor* tensor = nullptr;
  SafetensorsEntry entry;
};

struct FileShard {
  std::string name;
  std::vector<Output> outputs;
  uint64_t bytes = 0;
};

/// Tensors in order into shards that stay below the size where a tensor allows it.
std::vector<FileShard> cut_into_shards(const TensorMap& map, const ParameterSource& source, std::optional<DType> wanted,
                                       uint64_t shard_bytes) {
  std::vector<FileShard> shards(1);
  for (const MappedTensor& tensor : map.tensors()) {
    const DType dtype = output_dtype(tensor, source, wanted);
    const std::optional<uint64_t> bytes = checked_tensor_bytes(dtype, tensor.shape);
    CAPSTAN_CHECK(bytes, "{}: a size beyond 64 bits", tensor.name);
    if (!shards.back().outputs.empty() && shards.back().bytes + *bytes > shard_bytes) shards.emplace_back();
    Output output{&tensor, {}};
    output.entry.name = tensor.name, output.entry.dtype = dtype, output.entry.shape = tensor.shape;
    shards.back().outputs.push_back(std::move(output));
    shards.back().bytes += *bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::stable_sort(shards[i].outputs.begin(), shards[i].outputs.end(), [](const Output& a, const Output& b) {
      return bytes_of(a.entry.dtype.value()) > bytes_of(b.entry.dtype.value());
    });
  }
  return shards;
}

void write_index(const fs::path& directory, const std::vector<FileShard>& shards, uint64_t total) {
  std::map<std::string, std::string> files;
  for (const FileShard& shard : shards)
    for (const Output& output : shard.outputs) files[output.entry.name] = shard.name;
  std::string text = fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total);
  const char* separator = "\n    ";
  for (const auto& [tensor, file] : files) {
    text += fmt::format("{}{}: {}", separator, json_quote(tensor), json_quote(file));
    separator = ",\n    ";
  }
  write_file_atomically(directory / kSafetensorsIndexName, text + "\n  }\n}\n");
}

}  // namespace

DType output_dtype(const MappedTensor& tensor, const ParameterSource& source, std::optional<DType> wanted) {
  if (wanted) return *wanted;
  DType widest = source.dtype(tensor.pieces.front().parameter);
  for (const MappedPiece& piece : tensor.pieces) {
    const DType dtype = source.dtype(piece.parameter);
    if (dtype == widest) continue;
    widest = bytes_of(dtype) == bytes_of(widest) ? DType::f32 : bytes_of(dtype) > bytes_of(widest) ? dtype : widest;
  }
  return widest;
}

std::vector<WrittenFile> write_safetensors(const fs::path& directory, const TensorMap& map, ParameterSource& source,
                                           std::optional<DType> dtype, uint64_t shard_bytes,
                                           const ProgressReport& progress, size_t most_files) {
  const std::vector<FileShard> shards = cut_into_shards(map, source, dtype, shard_bytes);
  if (shards.size() > most_files)
    throw Error::make(ExitCode::usage,
                      "shards of {} bytes would be {} files, wanted at most {}; choose a larger --shard-size",
                      shard_bytes, shards.size(), most_files);
  OutputProgress state;
  for (const FileShard& shard : shards) state.total += shard.bytes;
  std::vector<WrittenFile> files;
  for (const FileShard& shard : shards) {
    std::vector<SafetensorsEntry> entries;
    for (const Output& output : shard.outputs) entries.push_back(output.entry);
    SafetensorsWriter file(directory / shard.name, std::move(entries), {{"format", "pt"}});
    for (const Output& output : shard.outputs) {
      failpoint("convert.tensor");
      write_mapped_tensor(*output.tensor, source, output.entry.dtype.value(), [&](const void* data, uint64_t bytes) {
        file.write(data, bytes);
        progress({state.bytes += bytes, state.total});
      });
    }
    file.finish();
    files.push_back({shard.name, file.file_bytes(), file.file_digest()});
  }
  if (shards.size() > 1) write_index(directory, shards, state.total);
  return files;
}

}  // namespace capstan
