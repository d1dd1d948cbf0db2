// libFuzzer targets for what a model directory may hold; CAPSTAN_FUZZ chooses one when it is built:
//   1 safetensors (the whole file), 2 its index, 3 config.json, 4 GGUF
// A target takes any bytes: an Error is an answer, anything else (a crash, a sanitizer's finding, memory beyond
// libFuzzer's limit, another exception) is a fault. tests/launch/weights_fuzz_product.py builds and runs them.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/config/parameter_count.h"
#include "core/error.h"
#include "io/safetensors.h"
#include "io/weights/config_members.h"
#include "io/weights/family_config.h"
#include "io/weights/gguf.h"
#include "io/weights/tensor_files.h"
#include "io/weights/tensor_map.h"

namespace {

/// A file in memory with these bytes.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (file_ < 0 || write(file_, data, size) != static_cast<ssize_t>(size)) _exit(99);
  }
  ~MemoryFile() { close(file_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

void read_all(const capstan::SafetensorsFile& file) {
  for (const capstan::SafetensorsEntry& entry : file.entries()) {
    std::string bytes(entry.bytes, '\0');
    file.read(entry.name, bytes.data(), 0, entry.bytes);
  }
}

[[maybe_unused]] constexpr int64_t kMostParameters = 1 << 26;

void take(const uint8_t* data, size_t size) {
  [[maybe_unused]] const std::string_view text(reinterpret_cast<const char*>(data), size);
#if CAPSTAN_FUZZ == 1
  const MemoryFile file(data, size);
  read_all(capstan::SafetensorsFile::open(file.path()));
#elif CAPSTAN_FUZZ == 2
  capstan::parse_shard_index(text, "index");
#elif CAPSTAN_FUZZ == 3
  const capstan::FamilyModel found = capstan::read_model_config(text, "config");
  // Whoever reads files compares a model with what they hold before it is laid out.
  if (found.model.layers <= 64 && capstan::parameter_count(found.model) < kMostParameters)
    capstan::TensorMap(*found.family, found.model);
  capstan::write_model_config(*found.family, found.model, {});
  capstan::with_token_ids_of(capstan::with_dtype(std::string(text), "float16"), std::string(text));
#else
  capstan::parse_gguf_header(text, size, "gguf");
#endif
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    take(data, size);
  } catch (const capstan::Error& error) {
    if (error.code() == capstan::ExitCode::internal) throw;
  }
  return 0;
}
