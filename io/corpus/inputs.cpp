#include "io/corpus/inputs.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

fs::path without_compression(const fs::path& path) {
  return path.extension() == ".gz" || path.extension() == ".zst" ? path.stem() : path.filename();
}

bool is_compressed(const fs::path& path) { return without_compression(path) != path.filename(); }

/// The .bin of a Megatron-LM dataset that `path` (PREFIX, PREFIX.bin or PREFIX.idx) belongs to; empty when none does.
fs::path megatron_data(const fs::path& path) {
  fs::path stem = path;
  if (path.extension() == ".bin" || path.extension() == ".idx") stem.replace_extension();
  const fs::path data = stem.string() + ".bin", index = stem.string() + ".idx";
  return fs::is_regular_file(data) && fs::is_regular_file(index) ? data : fs::path();
}

InputFormat format_by_name(const fs::path& path) {
  const fs::path kind = without_compression(path).extension();
  if (kind == ".jsonl" || kind == ".ndjson") return InputFormat::jsonl;
  if ((kind == ".bin" || kind == ".idx") && !megatron_data(path).empty()) return InputFormat::megatron;
  return InputFormat::text;
}

InputFile describe(const fs::path& path, InputFormat format) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0)
    throw Error::make(ExitCode::missing_input, "{}: this input went away", path.string());
  const int64_t modified = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  return {path, static_cast<uint64_t>(status.st_size), format, modified};
}

std::string first_bytes(const fs::path& path) {
  std::string bytes(8192, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

/// What a file is, when it is known to hold no plain text; else null.
const char* other_kind(std::string_view bytes) {
  using std::operator""sv;
  if (bytes.starts_with("\x89HDF\r\n\x1a\n"sv)) return "an HDF5 file";
  if (bytes.starts_with("PAR1"sv)) return "a Parquet file; write it out as JSONL first";
  if (bytes.starts_with("PK\x03\x04"sv)) return "a zip archive; unpack it first";
  if (bytes.starts_with("\xfd\x37zXZ\0"sv)) return "an xz file; decompress it, or pack it with gzip or zstd";
  if (bytes.starts_with("BZh"sv)) return "a bzip2 file; decompress it, or pack it with gzip or zstd";
  if (bytes.starts_with("\x1f\x8b"sv)) return "a gzip file; name it .gz";
  if (bytes.starts_with("\x28\xb5\x2f\xfd"sv)) return "a zstd file; name it .zst";
  if (bytes.starts_with("%PDF-"sv)) return "a PDF; extract its text first";
  return nullptr;
}

bool looks_like_text(const fs::path& path) {
  if (is_compressed(path)) return true;
  const std::string bytes = first_bytes(path);
  return !other_kind(bytes) && bytes.find('\0') == std::string::npos;
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with("."); }

void add_directory(const fs::path& directory, const DocumentOptions& options, InputList& list) {
  std::vector<fs::path> found;
  fs::recursive_directory_iterator walk(directory, fs::directory_options::skip_permission_denied);
  for (; walk != fs::recursive_directory_iterator(); ++walk) {
    if (is_hidden(walk->path())) {
      if (walk->is_directory()) walk.disable_recursion_pending();
      continue;
    }
    if (walk->is_regular_file()) found.push_back(walk->path());
  }
  std::sort(found.begin(), found.end());
  const size_t before = list.files.size();
  for (const fs::path& path : found) {
    const InputFormat format = options.format.value_or(format_by_name(path));
    if (format == InputFormat::megatron) {
      if (path.extension() == ".bin" && !megatron_data(path).empty()) list.files.push_back(describe(path, format));
    } else if (fs::file_size(path) == 0 || !looks_like_text(path)) {
      list.skipped.push_back(path);
    } else {
      list.files.push_back(describe(path, format));
    }
  }
  if (list.files.size() == before)
    throw Error::make(ExitCode::bad_data, "{}: wanted text files in this directory, found none", directory.string());
}

void add_megatron(const fs::path& path, InputList& list) {
  const fs::path data = megatron_data(path);
  if (data.empty())
    throw Error::make(ExitCode::missing_input,
                      "{}: wanted a Megatron-LM dataset, PREFIX.bin and "
                      "PREFIX.idx, at least one of them is not there",
                      path.string());
  list.files.push_back(describe(data, InputFormat::megatron));
}

void add_standard_input(const DocumentOptions& options, InputList& list) {
  if (!options.format || *options.format == InputFormat::megatron)
    throw Error(ExitCode::usage,
                "standard input: say what it holds with "
                "--format text or --format jsonl");
  for (const InputFile& file : list.files)
    if (file.standard_input) throw Error(ExitCode::usage, "standard input: it can be named once only");
  list.files.push_back({"-", 0, *options.format, 0, std::make_shared<StandardInput>()});
}

void add_file(const fs::path& path, const DocumentOptions& options, InputList& list) {
  const InputFormat format = options.format.value_or(format_by_name(path));
  if (format == InputFormat::megatron) return add_megatron(path, list);
  if (fs::file_size(path) == 0) throw Error::make(ExitCode::bad_data, "{}: this input is empty", path.string());
  if (!is_compressed(path))
    if (const char* kind = other_kind(first_bytes(path)))
      throw Error::make(ExitCode::bad_data, "{}: wanted text or JSONL (plain, .gz, .zst), this is {}", path.string(),
                        kind);
  list.files.push_back(describe(path, format));
}

}  // namespace

uint64_t InputList::bytes() const {
  uint64_t total = 0;
  for (const InputFile& file : files) total += file.size;
  return total;
}

InputList list_inputs(const std::vector<fs::path>& inputs, const DocumentOptions& options) {
  InputList list;
  if (inputs.empty()) throw Error(ExitCode::usage, "corpus build: wanted at least one input file or directory");
  for (const fs::path& input : inputs) {
    if (input == "-")
      add_standard_input(options, list);
    else if (options.format == InputFormat::megatron && !fs::is_directory(input))
      add_megatron(input, list);
    else if (!fs::exists(input))
      throw Error::make(ExitCode::missing_input, "{}: wanted an input file or directory, there is none",
                        input.string());
    else if (fs::is_directory(input))
      add_directory(input, options, list);
    else if (fs::is_regular_file(input))
      add_file(input, options, list);
    else
      throw Error::make(ExitCode::bad_data,
                        "{}: wanted a regular file or a directory (inputs are "
                        "read twice, a pipe cannot be); for a "
                        "pipe name - and redirect it to standard input",
                        input.string());
  }
  return list;
}

}  // namespace capstan
