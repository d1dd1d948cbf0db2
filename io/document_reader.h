#pragma once
// DocumentReader: input files in, documents out, in pieces of at most 1 MiB, so that memory stays bounded whatever the
// size of a file or a document. The clever thing: a piece is always as long as its document allows (up to the last
// line end or character that fits), never as long as a read happened to be; so pieces, and with them tokens, splits and
// hashes, depend on the text alone.
// A text file is one document, or one per run of lines without a blank one; a line of JSONL is one document. Documents
// without text are left out and counted.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

enum class DocumentSplit { none, blank };

struct DocumentOptions {
  std::string field = "text";  ///< of a JSONL object
  DocumentSplit split = DocumentSplit::none;
};

struct InputFile {
  std::filesystem::path path;
  uint64_t size = 0;
  bool json_lines = false;
};

struct InputList {
  std::vector<InputFile> files;
  std::vector<std::filesystem::path> skipped;  ///< found in directories: empty, or not text
  uint64_t bytes() const;
};

/// Files as given, directories recursively in order of path, without names that begin with a dot. A file is JSONL when
/// its name says .jsonl or .ndjson (before .gz or .zst). Error missing_input for what is not there, bad_data for a
/// named file that is empty or of a known kind that holds no plain text, or a directory without any text.
InputList list_inputs(const std::vector<std::filesystem::path>& inputs);

struct DocumentPiece {
  std::string_view text;  ///< valid until the next call
  bool begins = false;
  bool ends = false;
};

constexpr size_t kLargestPiece = size_t{1} << 20;

class DocumentReader {
 public:
  DocumentReader(std::vector<InputFile> files, DocumentOptions options);
  ~DocumentReader();

  /// False after the last document. Error bad_data naming file and line, missing_input, io_error.
  bool next(DocumentPiece& piece);
  /// Bytes on disk consumed so far, of all files.
  uint64_t consumed() const;
  uint64_t empty_documents() const { return empty_; }

  class Format;  ///< documents of one file

 private:
  std::vector<InputFile> files_;
  DocumentOptions options_;
  size_t next_file_ = 0;
  uint64_t finished_bytes_ = 0;
  uint64_t empty_ = 0;
  std::unique_ptr<Format> current_;
};

}  // namespace capstan
