#pragma once
// Which files a list of inputs stands for, and what is in them. Everything that reads inputs starts from an InputList;
// the order of its files is the order of the documents.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/corpus/byte_source.h"

namespace capstan {

enum class DocumentSplit { none, blank };
enum class InputFormat { text, jsonl, megatron };
constexpr const char* name_of(InputFormat format) {
  return format == InputFormat::text ? "text" : format == InputFormat::jsonl ? "jsonl" : "megatron";
}

struct DocumentOptions {
  std::string field = "text";  ///< of a JSONL object; a.b is the member b of the object a
  DocumentSplit split = DocumentSplit::none;
  std::optional<InputFormat> format = {};  ///< absent: by name
  std::vector<std::string> metadata = {};  ///< fields of a JSONL object that are kept for every document
};

struct InputFile {
  std::filesystem::path path;
  uint64_t size = 0;
  InputFormat format = InputFormat::text;
  int64_t modified = 0;                                ///< nanoseconds
  std::shared_ptr<StandardInput> standard_input = {};  ///< set: this is no file
};

struct InputList {
  std::vector<InputFile> files;
  std::vector<std::filesystem::path> skipped;  ///< found in directories: empty, or not text
  uint64_t bytes() const;
};

/// Files as given, directories recursively in order of path, without names that begin with a dot, "-" for standard
/// input. By name, .jsonl and .ndjson (before .gz or .zst) are JSONL, a .bin or .idx beside its other half is a
/// Megatron-LM dataset, everything else is text. Error missing_input for what is not there, usage for standard input
/// without a format, bad_data for a named file that is empty or of a known kind that holds no plain text, or a
/// directory without any text.
InputList list_inputs(const std::vector<std::filesystem::path>& inputs, const DocumentOptions& options = {});

}  // namespace capstan
