#pragma once
// The .idx file of a Megatron-LM dataset (MMapIndexedDataset), which says what the .bin beside it holds. All numbers
// are little-endian:
//   9 bytes "MMIDIDX\0\0", u64 version 1, u8 type of a token, u64 sequences S, u64 boundaries B,
//   i32[S] tokens of each sequence, i64[S] byte in the .bin where it begins,
//   i64[B] sequence where each document begins, the last one S.
// The index is read as a stream, whatever its length, and nothing in it is believed before it was compared with the
// sizes of both files.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"

namespace capstan {

constexpr std::string_view kMegatronMagic{"MMIDIDX\0\0", 9};
constexpr uint64_t kMegatronVersion = 1;
constexpr uint64_t kMegatronHeader = 9 + 8 + 1 + 8 + 8;

/// Types of tokens that a dataset may have; the value is the code in the file.
enum class MegatronType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };
uint64_t width_of(MegatronType type);

struct MegatronDocument {
  uint64_t first_token = 0, tokens = 0;
};

class MegatronIndex {
 public:
  /// Opens PREFIX.bin and PREFIX.idx and checks header, sizes, and all of the index: sequences follow one another in
  /// the .bin without gaps and fill it, documents follow one another and cover all sequences. Error bad_data that names
  /// file and entry, missing_input.
  explicit MegatronIndex(const std::filesystem::path& data);

  MegatronType type() const { return type_; }
  uint64_t documents() const { return boundaries_ - 1; }
  uint64_t tokens() const { return tokens_; }
  const FileDescriptor& data() const { return data_; }
  const std::filesystem::path& path() const { return path_; }

  /// Documents in order; false after the last. They may be empty.
  bool next(MegatronDocument& document);

 private:
  /// A run of equal numbers in the index, read a few at a time.
  struct Column {
    uint64_t offset = 0, count = 0, width = 0, at = 0;
    std::vector<char> buffer;
    uint64_t buffered_from = 0;
  };
  void read_header(uint64_t index_size, uint64_t data_size);
  void check_all(uint64_t data_size);
  int64_t number(Column& column, uint64_t at);
  [[noreturn]] void refuse(const std::string& why) const;

  std::filesystem::path path_, index_path_;
  FileDescriptor data_, index_;
  MegatronType type_{};
  uint64_t sequences_ = 0, boundaries_ = 0, tokens_ = 0;
  Column lengths_, documents_;
  uint64_t next_document_ = 0, next_sequence_ = 0, next_token_ = 0;
};

}  // namespace capstan
