#pragma once
// TensorFiles: named tensors in somebody else's files, whatever the container: a Hugging Face directory (one
// safetensors file or shards with an index) or a GGUF file. All are hostile until opened: by then every name, shape and
// offset has been checked against the real sizes, and no file outside the directory was touched.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/types.h"

namespace capstan {

struct StoredTensor {
  std::optional<DType> dtype;  ///< nothing: a type that no parameter may have
  std::vector<int64_t> shape;  ///< outermost first
  uint64_t bytes = 0;
  std::string_view type = {};  ///< in the container's own words, for messages
};

class TensorFiles {
 public:
  virtual ~TensorFiles() = default;
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;  ///< null when there is none
  /// Bytes of that tensor, row-major, little-endian. Error bad_data when there is no such tensor or stretch. Not for
  /// several threads.
  virtual void read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const = 0;
  const std::filesystem::path& path() const { return path_; }

 protected:
  explicit TensorFiles(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxShards = 99'999;  ///< as many as five digits of a name can tell apart
constexpr size_t kMaxShardName = 255;
inline constexpr const char* kSafetensorsName = "model.safetensors";
inline constexpr const char* kSafetensorsIndexName = "model.safetensors.index.json";

/// The tensor -> file map of an index: plain file names that end in .safetensors. Error bad_data that begins with
/// `where`.
std::map<std::string, std::string, std::less<>> parse_shard_index(std::string_view text, const std::string& where);

/// model.safetensors, or the shards that model.safetensors.index.json names. pytorch_model.bin alone is refused with
/// the way out. Error missing_input, bad_data or io_error.
std::unique_ptr<TensorFiles> open_safetensors_directory(const std::filesystem::path& directory);

}  // namespace capstan
