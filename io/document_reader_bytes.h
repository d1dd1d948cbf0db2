#pragma once
// Bytes of an input file, decompressed on the way when its name ends in .gz or .zst (several members or frames after
// one another are one stream). A file that ends early or holds anything else is an Error, never a short text.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "io/file_system.h"

namespace capstan {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills up to `size` bytes; 0 only at the end. Error bad_data naming the file.
  virtual size_t read(char* out, size_t size) = 0;
  /// Bytes of the file on disk consumed so far.
  virtual uint64_t consumed() const = 0;
};

/// By the name's last extension. Error missing_input, bad_data.
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

}  // namespace capstan
