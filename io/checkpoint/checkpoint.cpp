#include "io/checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "io/safetensors.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kBlock = uint64_t{1} << 22;
constexpr std::string_view kStepPrefix = "step-";

/// The step in "step-N"; nothing for other names, "step-01" and "step-4.partial" among them.
std::optional<uint64_t> step_of(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  uint64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, problem] = std::from_chars(name.data() + kStepPrefix.size(), end, step);
  if (problem != std::errc() || stop != end || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

/// A stretch of one file that has a digest of its own.
struct Stretch {
  uint64_t offset, bytes;
  Digest128 digest;
  std::string_view tensor;
  uint64_t first;
};

Error damaged(const std::string& file, std::string_view tensor, uint64_t first, uint64_t elements) {
  return Error::make(ExitCode::bad_data,
                     "{}: the bytes of tensor '{}' (slice at element {}, {} elements) do not match their digest: "
                     "the file is damaged",
                     file, tensor, first, elements);
}

/// True for what says that this checkpoint is no good, false for what says that we or the job are in trouble.
bool speaks_of_damage(const Error& error) {
  return error.code() == ExitCode::bad_data || error.code() == ExitCode::missing_input ||
         error.code() == ExitCode::io_error;
}

/// Steps of leftovers "step-N.partial", for the reader's complaint.
std::vector<uint64_t> unfinished_steps(const fs::path& directory) {
  std::vector<uint64_t> steps;
  std::error_code problem;
  for (const auto& entry : fs::directory_iterator(directory, problem))
    if (entry.path().extension() == ".partial")
      if (const auto step = step_of(entry.path().stem().string())) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

/// What rank 0 sees in the directory, so that all ranks try the same candidates whatever a slow network disk shows
/// them.
struct Candidates {
  std::vector<uint64_t> steps, unfinished;
};

Candidates agreed_candidates(const fs::path& directory, CheckpointGroup& group) {
  const auto told = agree(group, [&] {
    if (group.rank() != 0) return std::string();
    const auto found = find_checkpoints(directory);
    const auto leftovers = unfinished_steps(directory);
    Packer packer;
    packer.put(found.size());
    for (const CheckpointLocation& location : found) packer.put(location.step);
    packer.put(leftovers.size());
    for (const uint64_t step : leftovers) packer.put(step);
    return packer.take();
  });
  Unpacker unpack(told[0]);
  Candidates candidates;
  for (uint64_t n = unpack.count(); n > 0; --n) candidates.steps.push_back(unpack.count());
  for (uint64_t n = unpack.count(); n > 0; --n) candidates.unfinished.push_back(unpack.count());
  return candidates;
}

}  // namespace

std::string checkpoint_name(uint64_t step) { return fmt::format("{}{}", kStepPrefix, step); }

Checkpoint::Checkpoint(fs::path path, Manifest manifest) : path_(std::move(path)), manifest_(std::move(manifest)) {
  for (const ManifestTensor& entry : manifest_.tensors) checked_.emplace_back(entry.slices.size(), false);
}

Checkpoint Checkpoint::open(const fs::path& path) {
  const fs::path manifest_path = path / kCheckpointManifestName;
  Manifest manifest = parse_manifest(read_whole_file(manifest_path, kMaxManifestBytes), manifest_path.string());
  const std::string name = path.filename().string();
  if (const auto step = step_of(name); step && *step != manifest.step)
    throw Error::make(ExitCode::bad_data, "{}: the manifest is that of step {}", path.string(), manifest.step);
  for (const ManifestFile& wanted : manifest.files) {
    const uint64_t bytes = size_of(open_beneath(path, wanted.name), path / wanted.name);
    if (bytes != wanted.bytes)
      throw Error::make(ExitCode::bad_data, "{}: wanted {} bytes, the file has {}", (path / wanted.name).string(),
                        wanted.bytes, bytes);
  }
  return {path, std::move(manifest)};
}

std::vector<LogicalTensor> Checkpoint::tensors() const {
  std::vector<LogicalTensor> all;
  for (const ManifestTensor& entry : manifest_.tensors) all.push_back(entry.tensor);
  return all;
}

const LogicalTensor* Checkpoint::find(std::string_view tensor) const {
  const auto at = std::lower_bound(manifest_.tensors.begin(), manifest_.tensors.end(), tensor,
                                   [](const ManifestTensor& e, std::string_view name) { return e.tensor.name < name; });
  return at != manifest_.tensors.end() && at->tensor.name == tensor ? &at->tensor : nullptr;
}

uint64_t Checkpoint::bytes() const {
  uint64_t sum = 0;
  for (const ManifestFile& f : manifest_.files) sum += f.bytes;
  return sum;
}

const ManifestTensor& Checkpoint::wanted(std::string_view tensor, const Runs& runs) const {
  const auto at = std::lower_bound(manifest_.tensors.begin(), manifest_.tensors.end(), tensor,
                                   [](const ManifestTensor& e, std::string_view name) { return e.tensor.name < name; });
  if (at == manifest_.tensors.end() || at->tensor.name != tensor)
    throw Error::make(ExitCode::bad_data, "{}: wanted tensor '{}', the checkpoint has none of that name",
                      path_.string(), tensor);
  if (const std::string problem = problem_of(runs, elements_of(at->tensor)); !problem.empty())
    throw Error::make(ExitCode::bad_data, "{}: tensor '{}': cannot read {}", path_.string(), tensor, problem);
  return *at;
}

const FileDescriptor& Checkpoint::file(uint32_t index) {
  if (!open_file_.valid() || open_index_ != index) {
    open_file_ = open_beneath(path_, manifest_.files[index].name);
    open_index_ = index;
  }
  return open_file_;
}

std::vector<bool>& Checkpoint::checked(const ManifestTensor& entry) {
  return checked_[static_cast<size_t>(&entry - manifest_.tensors.data())];
}

void Checkpoint::check_slice(const ManifestTensor& entry, const ManifestSlice& slice) {
  const uint64_t bytes = slice.runs.elements() * bytes_of(entry.tensor.dtype);
  std::vector<char> block(std::min(bytes, kBlock));
  DigestStream digest;
  for (uint64_t at = 0; at < bytes; at += block.size()) {
    const uint64_t n = std::min<uint64_t>(block.size(), bytes - at);
    read_exactly(file(slice.file), file_path(slice.file), block.data(), slice.offset + at, n);
    digest.update(block.data(), n);
  }
  if (digest.value() != slice.digest)
    throw damaged(file_path(slice.file), entry.tensor.name, slice.runs.first, slice.runs.elements());
}

void Checkpoint::read_slice_part(const ManifestTensor& entry, size_t index, uint64_t first, uint64_t count, char* dst) {
  const ManifestSlice& slice = entry.slices[index];
  if (first >= slice.runs.end() || first + count <= slice.runs.first) return;
  const uint64_t element = bytes_of(entry.tensor.dtype);
  const auto read_overlap = [&](const Overlap& part) {
    read_exactly(file(slice.file), file_path(slice.file), dst + (part.element - first) * element,
                 slice.offset + part.in_slice * element, part.count * element);
  };
  const bool whole = slice.runs.runs == 1 && first <= slice.runs.first && slice.runs.end() <= first + count;
  if (checked(entry)[index] || !whole) {
    if (!checked(entry)[index]) check_slice(entry, slice);
    for_each_overlap(slice.runs, first, count, read_overlap);
  } else {  // the usual case, the layout of the save: read once, hash where it landed
    for_each_overlap(slice.runs, first, count, read_overlap);
    if (digest128_of(dst + (slice.runs.first - first) * element, slice.runs.count * element) != slice.digest)
      throw damaged(file_path(slice.file), entry.tensor.name, slice.runs.first, slice.runs.elements());
  }
  checked(entry)[index] = true;
}

void Checkpoint::read(std::string_view tensor, uint64_t first_element, uint64_t count, void* dst) {
  if (count > 0) read(tensor, Runs{first_element, count, 1, 0}, dst);
}

void Checkpoint::read(std::string_view tensor, const Runs& runs, void* dst) {
  const ManifestTensor& entry = wanted(tensor, runs);
  char* at = static_cast<char*>(dst);
  for (uint64_t run = 0; run < runs.runs; ++run) {
    for (size_t i = 0; i < entry.slices.size(); ++i)
      read_slice_part(entry, i, runs.first + run * runs.stride, runs.count, at);
    at += runs.count * bytes_of(entry.tensor.dtype);
  }
}

void Checkpoint::verify(int part, int parts) {
  for (size_t i = static_cast<size_t>(part); i < manifest_.files.size(); i += static_cast<size_t>(parts))
    verify_file(static_cast<uint32_t>(i));
}

/// One pass over the file for its own digest and those of the slices in it (which lie apart: parse_manifest).
void Checkpoint::verify_file(uint32_t index) {
  std::vector<Stretch> stretches;
  for (const ManifestTensor& entry : manifest_.tensors)
    for (const ManifestSlice& slice : entry.slices)
      if (slice.file == index)
        stretches.push_back({slice.offset, slice.runs.elements() * bytes_of(entry.tensor.dtype), slice.digest,
                             entry.tensor.name, slice.runs.first});
  std::sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) { return a.offset < b.offset; });
  const uint64_t size = manifest_.files[index].bytes;
  std::vector<char> block(std::min(size, kBlock));
  DigestStream whole, part;
  size_t current = 0;
  for (uint64_t at = 0; at < size; at += block.size()) {
    const uint64_t n = std::min<uint64_t>(block.size(), size - at);
    read_exactly(file(index), file_path(index), block.data(), at, n);
    whole.update(block.data(), n);
    for (; current < stretches.size() && stretches[current].offset < at + n; ++current) {
      const Stretch& s = stretches[current];
      const uint64_t from = std::max(s.offset, at), to = std::min(s.offset + s.bytes, at + n);
      part.update(block.data() + (from - at), to - from);
      if (s.offset + s.bytes > at + n) break;  // goes on in the next block
      if (part.value() != s.digest) throw damaged(file_path(index), s.tensor, s.first, s.bytes);
      part.reset();
    }
  }
  if (whole.value() != manifest_.files[index].digest)
    throw Error::make(ExitCode::bad_data, "{}: the bytes do not match the file's digest: it is damaged",
                      file_path(index));
  for (size_t t = 0; t < manifest_.tensors.size(); ++t)
    for (size_t i = 0; i < manifest_.tensors[t].slices.size(); ++i)
      if (manifest_.tensors[t].slices[i].file == index) checked_[t][i] = true;
}

std::vector<CheckpointLocation> find_checkpoints(const fs::path& directory) {
  std::vector<CheckpointLocation> found;
  std::error_code problem;
  for (const auto& entry : fs::directory_iterator(directory, problem))
    if (const auto step = step_of(entry.path().filename().string()); step && entry.is_directory(problem))
      found.push_back({*step, entry.path()});
  if (problem && problem != std::errc::no_such_file_or_directory)
    throw Error::make(ExitCode::io_error, "{}: cannot list the checkpoints: {}", directory.string(), problem.message());
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

std::string verify_together(const fs::path& path, CheckpointGroup& group) {
  try {
    agree(group, [&] {
      Checkpoint::open(path).verify(group.rank(), group.size());
      return std::string();
    });
    return {};
  } catch (const Error& error) {
    if (!speaks_of_damage(error)) throw;
    return error.what();
  }
}

std::optional<Checkpoint> open_newest_good(const fs::path& directory, std::vector<std::string>& complaints,
                                           CheckpointGroup& group) {
  const Candidates candidates = agreed_candidates(directory, group);
  std::vector<std::string> reasons;
  std::optional<uint64_t> used;
  for (const uint64_t step : candidates.steps) {
    const std::string problem = verify_together(directory / checkpoint_name(step), group);
    if (problem.empty()) {
      used = step;
      break;
    }
    reasons.push_back(fmt::format("checkpoint {} is damaged ({})", checkpoint_name(step), problem));
  }
  for (const uint64_t step : candidates.unfinished)
    if (!used || step > *used)
      reasons.push_back(fmt::format("checkpoint {} was never finished ({}.partial is left of it)",
                                    checkpoint_name(step), checkpoint_name(step)));
  for (const std::string& reason : reasons)
    complaints.push_back(reason + (used ? "; using " + checkpoint_name(*used) : "; no older one can be used"));
  if (!used) return std::nullopt;
  return Checkpoint::open(directory / checkpoint_name(*used));
}

std::optional<Checkpoint> open_newest_good(const fs::path& directory, std::vector<std::string>& complaints) {
  LoneGroup alone;
  return open_newest_good(directory, complaints, alone);
}

}  // namespace capstan
