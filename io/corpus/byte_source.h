#pragma once
// Bytes of an input, decompressed on the way when its name ends in .gz or .zst (several members or frames after one
// another are one stream). A file that ends early or holds anything else is an Error, never a short text. Standard
// input can be read once only, so its first 64 MiB are kept: whoever must look before the real reading starts (the
// split, the training of a tokenizer) sees those.

#include <atomic>
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

class StandardInput {
 public:
  static constexpr size_t kPrefix = size_t{64} << 20;
  explicit StandardInput(int descriptor = 0) : descriptor_(descriptor) {}
  /// The first bytes, at most kPrefix; reads them when called for the first time.
  const std::string& prefix();
  bool ended_in_prefix();
  /// The bytes after the prefix; 0 at the end. Error io_error.
  size_t read(char* out, size_t size);
  /// Makes a read() that waits, and all later ones, fail.
  void cancel() { cancelled_ = true; }

 private:
  int descriptor_;
  std::string prefix_;
  bool filled_ = false, ended_ = false;
  std::atomic<bool> cancelled_ = false;
};

/// Whole input, or what can be looked at beforehand (differs for standard input only).
enum class Reading { whole, look };

/// By the name's last extension. Error missing_input, bad_data.
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);
std::unique_ptr<ByteSource> open_byte_source(std::shared_ptr<StandardInput> input, Reading reading);

}  // namespace capstan
