#pragma once
// GGUF, version 3: the container of llama.cpp. Little-endian: magic, version, counts, key-values, tensor infos (dims
// fastest first), padding to the alignment, tensors. The reader trusts nothing: every length and count is compared with
// what is left of the file before anything is allocated by it, names are unique, tensors lie inside the file, aligned,
// and do not overlap.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/weights/tensor_files.h"

namespace capstan {

constexpr std::string_view kGgufMagic = "GGUF";
constexpr uint32_t kGgufVersion = 3;
constexpr uint64_t kGgufAlignment = 32;
constexpr uint64_t kMaxGgufHeader = uint64_t{256} << 20;
constexpr size_t kMaxGgufName = 64;
constexpr size_t kMaxGgufKey = 65535;
constexpr size_t kMaxGgufDims = 4;

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// What the writer says; the reader keeps numbers and texts of the same kinds.
using GgufValue = std::variant<uint32_t, int32_t, float, bool, std::string, uint64_t, int64_t, double,
                               std::vector<std::string>, std::vector<float>, std::vector<int32_t>>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  ///< outermost first
  uint64_t offset = 0;         ///< from the start of the data
  uint64_t bytes = 0;
};

/// Header of a file with these tensors, padded to where the data begins; fills in offsets and bytes.
std::string gguf_header(const GgufMetadata& metadata, std::vector<GgufTensor>& tensors);

struct GgufHeader {
  std::map<std::string, GgufValue> metadata;
  std::vector<GgufTensor> tensors;
  uint64_t data_begin = 0;
};

/// `bytes` is the beginning of a file of `file_bytes`, at most kMaxGgufHeader of it. Error bad_data.
GgufHeader parse_gguf_header(std::string_view bytes, uint64_t file_bytes, const std::string& where);

/// F32, F16, BF16 and F64 tensors; quantised ones are refused. Error missing_input, bad_data or io_error.
std::unique_ptr<TensorFiles> open_gguf(const std::filesystem::path& path);

}  // namespace capstan
