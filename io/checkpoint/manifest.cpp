#include "io/checkpoint/manifest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "io/json_events.h"
#include "io/safetensors.h"

namespace capstan {
namespace {

constexpr uint64_t kVersion = 1;
constexpr std::string_view kFormat = "capstan checkpoint";
constexpr std::string_view kDigestLead = ",\n\"digest\":\"";
constexpr std::string_view kDigestTail = "\"}\n";
constexpr size_t kDigestLine = kDigestLead.size() + 32 + kDigestTail.size();

Error bad(const std::string& why) { return Error(ExitCode::bad_data, why); }

Digest128 digest_member(const JsonValue& value) {
  const std::string& text = value.member("xxh3").text("xxh3");
  if (const auto digest = Digest128::from_hex(text)) return *digest;
  throw bad(fmt::format("wanted a digest of 32 hexadecimal digits, got '{}'", text.substr(0, 40)));
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

ManifestFile parse_file(const JsonValue& value) {
  ManifestFile file{value.member("name").text("name"), value.member("bytes").count("bytes"), digest_member(value)};
  if (!is_plain_name(file.name))
    throw bad(fmt::format("refuses the file name '{}': wanted a plain name, without directories", file.name));
  return file;
}

ManifestSlice parse_slice(const JsonValue& value, const Manifest& manifest, const LogicalTensor& tensor) {
  ManifestSlice slice;
  const uint64_t file = value.member("file").count("file");
  if (file >= manifest.files.size())
    throw bad(fmt::format("a slice lies in file {}, there are {}", file, manifest.files.size()));
  slice.file = static_cast<uint32_t>(file);
  slice.offset = value.member("offset").count("offset");
  slice.runs.first = value.member("first").count("first");
  slice.runs.count = value.member("count").count("count");
  if (const JsonValue* runs = value.find("runs")) slice.runs.runs = runs->count("runs");
  if (const JsonValue* stride = value.find("stride")) slice.runs.stride = stride->count("stride");
  slice.digest = digest_member(value);
  if (const std::string problem = problem_of(slice.runs, elements_of(tensor)); !problem.empty()) throw bad(problem);
  const uint64_t bytes = slice.runs.elements() * bytes_of(tensor.dtype), available = manifest.files[file].bytes;
  if (slice.offset > available || bytes > available - slice.offset)
    throw bad(
        fmt::format("a slice of {} bytes at byte {} leaves the file of {} bytes", bytes, slice.offset, available));
  return slice;
}

LogicalTensor parse_tensor_head(const JsonValue& value) {
  LogicalTensor tensor;
  tensor.name = value.member("name").text("name");
  const std::string& dtype = value.member("dtype").text("dtype");
  const auto known = safetensors_dtype(dtype);
  if (!known) throw bad(fmt::format("dtype '{}' is unknown", dtype.substr(0, 40)));
  tensor.dtype = *known;
  const JsonValue::Array& shape = value.member("shape").array("shape");
  if (shape.size() > kMaxTensorDims) throw bad(fmt::format("{} dims, wanted at most {}", shape.size(), kMaxTensorDims));
  for (const JsonValue& extent : shape)
    tensor.shape.push_back(static_cast<int64_t>(std::min<uint64_t>(extent.count("a dim"), INT64_MAX)));
  if (!checked_tensor_bytes(tensor.dtype, tensor.shape)) throw bad("the size of the tensor overflows 64 bits");
  return tensor;
}

void parse_tensor(const JsonValue& value, Manifest& manifest) {
  ManifestTensor entry;
  entry.tensor = parse_tensor_head(value);
  try {
    std::vector<Runs> runs;
    for (const JsonValue& slice : value.member("slices").array("slices")) {
      entry.slices.push_back(parse_slice(slice, manifest, entry.tensor));
      runs.push_back(entry.slices.back().runs);
    }
    if (const std::string problem = cover_problem(runs, elements_of(entry.tensor)); !problem.empty())
      throw bad(problem);
    if (!manifest.tensors.empty() && manifest.tensors.back().tensor.name >= entry.tensor.name)
      throw bad("the tensors are not sorted by name, or one is there twice");
  } catch (const Error& error) {
    throw bad(fmt::format("tensor '{}': {}", entry.tensor.name, error.what()));
  }
  manifest.tensors.push_back(std::move(entry));
}

/// Slices that share bytes of a file would be counted twice by nobody who wrote this manifest honestly.
void check_apart(const Manifest& manifest) {
  std::vector<std::tuple<uint32_t, uint64_t, uint64_t>> stretches;
  for (const ManifestTensor& entry : manifest.tensors)
    for (const ManifestSlice& slice : entry.slices)
      stretches.emplace_back(slice.file, slice.offset, slice.runs.elements() * bytes_of(entry.tensor.dtype));
  std::sort(stretches.begin(), stretches.end());
  for (size_t i = 1; i < stretches.size(); ++i) {
    const auto& [file, offset, bytes] = stretches[i - 1];
    if (std::get<0>(stretches[i]) == file && std::get<1>(stretches[i]) - offset < bytes)
      throw bad(
          fmt::format("two slices share byte {} of file {}", std::get<1>(stretches[i]), manifest.files[file].name));
  }
}

Manifest parse_checked(std::string_view text) {
  JsonLimits limits;
  limits.string_bytes = kMaxManifestBytes;
  const JsonValue root = parse_json(text, "it", limits);
  if (root.member("format").text("format") != kFormat) throw bad(fmt::format("wanted the format '{}'", kFormat));
  const uint64_t version = root.member("version").count("version");
  if (version != kVersion)
    throw bad(fmt::format("wanted format version {}, got {}: written by another release", kVersion, version));
  Manifest manifest;
  manifest.step = root.member("step").count("step");
  root.member("state").object("state");
  manifest.state = raw_json_member(text, "state");
  for (const JsonValue& file : root.member("files").array("files")) manifest.files.push_back(parse_file(file));
  for (const JsonValue& tensor : root.member("tensors").array("tensors")) parse_tensor(tensor, manifest);
  check_apart(manifest);
  return manifest;
}

std::string slice_text(const ManifestSlice& slice) {
  std::string text = fmt::format("{{\"file\":{},\"offset\":{},\"first\":{},\"count\":{},", slice.file, slice.offset,
                                 slice.runs.first, slice.runs.count);
  if (slice.runs.runs > 1) text += fmt::format("\"runs\":{},\"stride\":{},", slice.runs.runs, slice.runs.stride);
  return text + fmt::format("\"xxh3\":\"{}\"}}", slice.digest.hex());
}

}  // namespace

uint64_t elements_of(const LogicalTensor& tensor) {
  uint64_t product = 1;
  for (const int64_t extent : tensor.shape) product *= static_cast<uint64_t>(extent);
  return product;
}

std::string manifest_text(const Manifest& manifest) {
  std::string text = fmt::format("{{\"format\":\"{}\",\"version\":{},\"step\":{},\n\"state\":{},\n\"files\":[", kFormat,
                                 kVersion, manifest.step, manifest.state);
  const char* separator = "\n";
  for (const ManifestFile& file : manifest.files) {
    text += fmt::format("{}{{\"name\":{},\"bytes\":{},\"xxh3\":\"{}\"}}", separator, json_quote(file.name), file.bytes,
                        file.digest.hex());
    separator = ",\n";
  }
  text += "],\n\"tensors\":[";
  separator = "\n";
  for (const ManifestTensor& entry : manifest.tensors) {
    text += fmt::format("{}{{\"name\":{},\"dtype\":\"{}\",\"shape\":[{}],\"slices\":[", separator,
                        json_quote(entry.tensor.name), safetensors_name(entry.tensor.dtype),
                        fmt::join(entry.tensor.shape, ","));
    separator = ",\n";
    for (size_t i = 0; i < entry.slices.size(); ++i) text += (i ? "," : "") + slice_text(entry.slices[i]);
    text += "]}";
  }
  text += "]";
  return text + fmt::format("{}{}{}", kDigestLead, digest128_of(text).hex(), kDigestTail);
}

Manifest parse_manifest(std::string_view text, std::string_view where) {
  try {
    const bool closed = text.size() > kDigestLine && text.substr(text.size() - kDigestTail.size()) == kDigestTail &&
                        text.substr(text.size() - kDigestLine, kDigestLead.size()) == kDigestLead;
    if (!closed) throw bad("it does not end with its digest: cut off or half-written");
    const std::string_view body = text.substr(0, text.size() - kDigestLine);
    const auto stated = Digest128::from_hex(text.substr(body.size() + kDigestLead.size(), 32));
    if (!stated || *stated != digest128_of(body)) throw bad("its bytes do not match its own digest: it is damaged");
    return parse_checked(text);
  } catch (const Error& error) {
    throw Error::make(error.code(), "{}: {}", where, error.what());
  }
}

}  // namespace capstan
