#pragma once
// manifest.json of a checkpoint: which logical tensors there are, where each element lies, and the run's own state.
// Its last line is the digest of all bytes before it, so any damage to the manifest is found before it is believed.
// Tensors are sorted by name and slices by first element: the text is a pure function of the content, which makes two
// checkpoints of equal content equal byte for byte. All of a manifest is checked when it is parsed; who holds a
// Manifest may index by it without a thought (that the files have the sizes it says, the Checkpoint looks up itself).

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint/digest.h"
#include "io/checkpoint/runs.h"
#include "kernels/types.h"

namespace capstan {

struct LogicalTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  ///< global
  bool operator==(const LogicalTensor&) const = default;
};

/// Number of elements of a shape that has passed checked_tensor_bytes().
uint64_t elements_of(const LogicalTensor& tensor);

struct ManifestFile {
  std::string name;  ///< a plain file name beside the manifest
  uint64_t bytes = 0;
  Digest128 digest;
};

struct ManifestSlice {
  uint32_t file = 0;
  uint64_t offset = 0;  ///< in the file, in bytes
  Runs runs;
  Digest128 digest;
};

struct ManifestTensor {
  LogicalTensor tensor;
  std::vector<ManifestSlice> slices;
};

struct Manifest {
  uint64_t step = 0;
  std::string state = "{}";  ///< a JSON object, kept byte for byte
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;
};

constexpr uint64_t kMaxManifestBytes = uint64_t{1} << 28;
inline constexpr const char* kCheckpointManifestName = "manifest.json";

std::string manifest_text(const Manifest& manifest);

/// Error bad_data that begins with `where`.
Manifest parse_manifest(std::string_view text, std::string_view where);

}  // namespace capstan
