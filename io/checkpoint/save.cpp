#include "io/checkpoint/save.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/checkpoint/prune.h"
#include "io/json_events.h"
#include "io/safetensors.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kCopyBlock = uint64_t{1} << 22;

Runs runs_of(const Slice& slice) { return {slice.first_element, slice.count, slice.runs, slice.stride}; }

std::string file_name(int rank) { return fmt::format("rank-{:05}.safetensors", rank); }

bool by_name(const LogicalTensor& a, const LogicalTensor& b) { return a.name < b.name; }

const LogicalTensor* find_in(const std::vector<LogicalTensor>& sorted, const std::string& name) {
  const auto at = std::lower_bound(sorted.begin(), sorted.end(), name,
                                   [](const LogicalTensor& t, const std::string& wanted) { return t.name < wanted; });
  return at != sorted.end() && at->name == name ? &*at : nullptr;
}

/// A whole tensor keeps its name and shape, so that other tools can use the file; a part says which part it is.
SafetensorsEntry entry_for(const LogicalTensor& tensor, const Runs& runs) {
  SafetensorsEntry entry{tensor.name, tensor.dtype, tensor.shape};
  if (runs.elements() == elements_of(tensor)) return entry;
  const auto count = static_cast<int64_t>(runs.count), repeats = static_cast<int64_t>(runs.runs);
  entry.name = fmt::format("{}[{}:{}]", tensor.name, runs.first, runs.first + runs.count);
  entry.shape = {count};
  if (runs.runs > 1) {
    entry.name += fmt::format("+{}x{}", runs.runs, runs.stride);
    entry.shape = {repeats, count};
  }
  return entry;
}

/// Wide elements first, so that each tensor is aligned; then by name: the order depends on nothing else.
auto file_order(const LogicalTensor& tensor, const Runs& runs) {
  return std::make_tuple(16 - bytes_of(tensor.dtype), static_cast<int>(tensor.dtype), std::string_view(tensor.name),
                         runs.first);
}

void fire(const char* point, const fs::path& path) {
  if (failpoint(point)) throw Error::make(ExitCode::io_error, "{}: {}", path.string(), std::strerror(ENOSPC));
}

Packer& put(Packer& packer, const Runs& runs) {
  return packer.put(runs.first).put(runs.count).put(runs.runs).put(runs.stride);
}

Runs take_runs(Unpacker& unpack) {
  Runs runs;
  runs.first = unpack.count();
  runs.count = unpack.count();
  runs.runs = unpack.count();
  runs.stride = unpack.count();
  return runs;
}

void put(Packer& packer, const LogicalTensor& tensor) {
  packer.put(tensor.name).put(static_cast<uint64_t>(tensor.dtype)).put(tensor.shape.size());
  for (const int64_t extent : tensor.shape) packer.put(static_cast<uint64_t>(extent));
}

LogicalTensor take_tensor(Unpacker& unpack) {
  LogicalTensor tensor;
  tensor.name = unpack.text();
  tensor.dtype = static_cast<DType>(unpack.count());
  for (uint64_t n = unpack.count(); n > 0; --n) tensor.shape.push_back(static_cast<int64_t>(unpack.count()));
  return tensor;
}

/// Names and shapes that the reader would refuse are our own mistake, found before anything is written.
void check_tensor(const LogicalTensor& tensor) {
  CAPSTAN_CHECK(!tensor.name.empty() && tensor.name.size() + 100 <= kMaxTensorName && tensor.name != "__metadata__",
                "tensor name '{}'", tensor.name);
  CAPSTAN_CHECK(tensor.shape.size() <= kMaxTensorDims && checked_tensor_bytes(tensor.dtype, tensor.shape),
                "tensor '{}' has a shape that cannot be saved", tensor.name);
}

}  // namespace

CheckpointSave::CheckpointSave(fs::path directory, uint64_t step, std::vector<LogicalTensor> tensors,
                               std::vector<Slice> slices, std::string state_json, CheckpointGroup& group)
    : directory_(std::move(directory)),
      final_(directory_ / checkpoint_name(step)),
      partial_(partial_name(final_)),
      step_(step),
      mine_(std::move(tensors)),
      slices_(std::move(slices)),
      state_(std::move(state_json)),
      group_(group) {
  std::sort(mine_.begin(), mine_.end(), by_name);
  std::erase_if(slices_, [](const Slice& slice) { return slice.count == 0 || slice.runs == 0; });
  for (Slice& slice : slices_)
    if (slice.runs == 1) slice.stride = 0;
  const auto descriptions = agree(group_, [&] { return describe(); });
  const auto prepared = agree(group_, [&] {
    learn(descriptions);
    return std::string(group_.rank() == 0 && fs::exists(final_) ? "exists" : "");
  });
  if (prepared[0] == "exists") was_there_ = verify_together(final_, group_).empty();
  agree(group_, [&] {
    if (group_.rank() == 0) prepare();
    return std::string();
  });
}

/// What the others must know of this rank: the tensors it owns slices of (or that have no elements), and the slices.
std::string CheckpointSave::describe() const {
  for (size_t i = 0; i < mine_.size(); ++i) {
    check_tensor(mine_[i]);
    CAPSTAN_CHECK(i == 0 || mine_[i - 1].name != mine_[i].name, "tensor '{}' is listed twice", mine_[i].name);
  }
  if (group_.rank() == 0) parse_json(state_, "the state to save").object("the state to save");
  std::map<std::string_view, std::vector<Runs>> owned;
  for (const LogicalTensor& tensor : mine_)
    if (elements_of(tensor) == 0) owned[tensor.name];
  for (const Slice& slice : slices_) {
    const LogicalTensor* tensor = find_in(mine_, slice.tensor);
    CAPSTAN_CHECK(tensor, "a slice of tensor '{}', which is not listed", slice.tensor);
    const std::string problem = problem_of(runs_of(slice), elements_of(*tensor));
    CAPSTAN_CHECK(problem.empty(), "tensor '{}': {}", slice.tensor, problem);
    CAPSTAN_CHECK(slice.data || slice.fetch, "a slice of tensor '{}' without data", slice.tensor);
    owned[tensor->name].push_back(runs_of(slice));
  }
  Packer packer;
  packer.put(step_).put(owned.size());
  for (const auto& [name, list] : owned) {
    put(packer, *find_in(mine_, std::string(name)));
    packer.put(list.size());
    for (const Runs& runs : list) put(packer, runs);
  }
  return packer.take();
}

/// Joins all ranks' descriptions; Error internal where they contradict each other or do not cover a tensor exactly
/// once.
void CheckpointSave::learn(const std::vector<std::string>& descriptions) {
  std::map<std::string, std::pair<LogicalTensor, std::vector<Runs>>> joined;
  for (size_t rank = 0; rank < descriptions.size(); ++rank) {
    Unpacker unpack(descriptions[rank]);
    const uint64_t step = unpack.count();
    CAPSTAN_CHECK(step == step_, "rank {} saves step {}, another rank step {}", rank, step, step_);
    for (uint64_t tensors = unpack.count(); tensors > 0; --tensors) {
      const LogicalTensor tensor = take_tensor(unpack);
      auto& [known, runs] = joined.try_emplace(tensor.name, tensor, std::vector<Runs>()).first->second;
      CAPSTAN_CHECK(known == tensor, "the ranks disagree about dtype or shape of tensor '{}'", tensor.name);
      for (uint64_t n = unpack.count(); n > 0; --n) runs.push_back(take_runs(unpack));
    }
  }
  for (const auto& [name, entry] : joined) {
    const std::string problem = cover_problem(entry.second, elements_of(entry.first));
    CAPSTAN_CHECK(problem.empty(), "tensor '{}' is not covered exactly once by the ranks' slices: {}", name, problem);
    all_.push_back(entry.first);
  }
  for (const LogicalTensor& tensor : mine_) {
    const LogicalTensor* known = find_in(all_, tensor.name);
    CAPSTAN_CHECK(known, "tensor '{}' is not covered: no rank has a slice of it", tensor.name);
    CAPSTAN_CHECK(*known == tensor, "the ranks disagree about dtype or shape of tensor '{}'", tensor.name);
  }
}

void CheckpointSave::prepare() {
  create_directory_durably(directory_);
  remove_leftovers(directory_);
  if (was_there_) return;
  std::error_code problem;
  if (!fs::create_directory(partial_, problem))
    throw Error::make(ExitCode::cannot_create, "{}: cannot create the directory for a checkpoint: {}",
                      partial_.string(), problem.message());
}

void CheckpointSave::write() {
  outcome_ = Outcome::of([&] { return was_there_ ? std::string() : write_file(); });
}

/// This rank's file. Returns {file bytes, file digest, per slice: runs, offset, digest}; nothing when it owns nothing.
std::string CheckpointSave::write_file() {
  if (slices_.empty()) return {};
  std::sort(slices_.begin(), slices_.end(), [&](const Slice& a, const Slice& b) {
    return file_order(*find_in(mine_, a.tensor), runs_of(a)) < file_order(*find_in(mine_, b.tensor), runs_of(b));
  });
  std::vector<SafetensorsEntry> entries;
  for (const Slice& slice : slices_) entries.push_back(entry_for(*find_in(mine_, slice.tensor), runs_of(slice)));
  SafetensorsWriter file(partial_ / file_name(group_.rank()), std::move(entries), {{"format", "pt"}});
  Packer packer;
  std::vector<char> block;
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Slice& slice = slices_[i];
    DigestStream digest;
    if (slice.fetch) block.resize(kCopyBlock);
    for (uint64_t at = 0, bytes = file.entries()[i].bytes; at < bytes; at += kCopyBlock) {
      const uint64_t n = std::min(kCopyBlock, bytes - at);
      const char* data = slice.fetch ? block.data() : static_cast<const char*>(slice.data) + at;
      if (slice.fetch) slice.fetch(at, n, block.data());
      digest.update(data, n);
      file.write(data, n);
    }
    put(packer.put(slice.tensor), runs_of(slice)).put(file.entries()[i].offset);
    packer.put(digest.value().high).put(digest.value().low);
  }
  file.finish();
  const Digest128 whole = file.file_digest();
  Packer head;
  head.put(file.file_bytes()).put(whole.high).put(whole.low).put(slices_.size());
  return head.take() + packer.take();
}

/// From all ranks' reports.
Manifest CheckpointSave::manifest(const std::vector<std::string>& reports) const {
  Manifest out;
  out.step = step_;
  out.state = state_;
  std::map<std::string, ManifestTensor> tensors;
  for (const LogicalTensor& tensor : all_) tensors[tensor.name].tensor = tensor;
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    if (reports[rank].empty()) continue;
    Unpacker unpack(reports[rank]);
    ManifestFile file{file_name(static_cast<int>(rank)), unpack.count(), {}};
    file.digest.high = unpack.count();
    file.digest.low = unpack.count();
    for (uint64_t n = unpack.count(); n > 0; --n) {
      ManifestSlice slice;
      std::vector<ManifestSlice>& list = tensors[unpack.text()].slices;
      slice.file = static_cast<uint32_t>(out.files.size());
      slice.runs = take_runs(unpack);
      slice.offset = unpack.count();
      slice.digest.high = unpack.count();
      slice.digest.low = unpack.count();
      list.push_back(slice);
    }
    out.files.push_back(file);
  }
  for (auto& [name, entry] : tensors) {
    std::sort(entry.slices.begin(), entry.slices.end(),
              [](const ManifestSlice& a, const ManifestSlice& b) { return a.runs.first < b.runs.first; });
    out.tensors.push_back(std::move(entry));
  }
  return out;
}

/// Rank 0: the manifest, and the one rename that makes it all true.
void CheckpointSave::publish(const Manifest& content) {
  fire("checkpoint.manifest", partial_);
  const std::string text = manifest_text(content);
  CAPSTAN_CHECK(text.size() <= kMaxManifestBytes, "a manifest of {} bytes", text.size());
  DurableFile file(partial_ / kCheckpointManifestName);
  file.write(text);
  file.sync_and_close();
  sync_directory(partial_);
  fire("checkpoint.before_rename", partial_);
  // A damaged directory of this name gives way: hidden first, because rename() replaces only empty ones.
  if (fs::exists(final_)) remove_checkpoint(final_);
  rename_durably(partial_, final_);
}

void CheckpointSave::discard() noexcept {
  if (group_.rank() != 0) return;
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

SaveResult CheckpointSave::commit(int keep) {
  SaveResult result{final_, was_there_, 0, {}};
  try {
    const auto reports = agree(group_, outcome_);
    if (was_there_) return result;
    const Manifest content = manifest(reports);
    for (const ManifestFile& file : content.files) result.bytes += file.bytes;
    agree(group_, [&] {
      if (group_.rank() == 0) publish(content);
      return std::string();
    });
  } catch (...) {
    discard();
    throw;
  }
  // From here on the checkpoint is saved: what fails is a warning.
  const auto hint = agree(group_, [&] {
    if (group_.rank() != 0) return std::string();
    try {
      fire("checkpoint.after_rename", final_);
      write_file_atomically(directory_ / "latest", checkpoint_name(step_) + "\n");
      return std::string();
    } catch (const Error& error) {
      return fmt::format("the hint 'latest' was not written: {}", error.what());
    }
  });
  if (!hint[0].empty()) result.warnings.push_back(hint[0]);
  for (std::string& warning : prune_checkpoints(directory_, step_, keep, group_))
    result.warnings.push_back(std::move(warning));
  return result;
}

SaveResult save_checkpoint(const fs::path& directory, uint64_t step, std::vector<LogicalTensor> tensors,
                           std::vector<Slice> slices, std::string state_json, CheckpointGroup& group, int keep) {
  CheckpointSave save(directory, step, std::move(tensors), std::move(slices), std::move(state_json), group);
  save.write();
  return save.commit(keep);
}

SaveResult merge_checkpoint(Checkpoint& from, const fs::path& directory) {
  LoneGroup alone;
  std::vector<Slice> slices;
  for (const LogicalTensor& tensor : from.tensors()) {
    Slice slice{tensor.name, 0, elements_of(tensor)};
    slice.fetch = [&from, tensor](uint64_t first_byte, uint64_t bytes, void* dst) {
      const uint64_t element = bytes_of(tensor.dtype);  // blocks are multiples of every element size
      from.read(tensor.name, first_byte / element, bytes / element, dst);
    };
    slices.push_back(std::move(slice));
  }
  return save_checkpoint(directory, from.step(), from.tensors(), std::move(slices), from.state(), alone, 2);
}

}  // namespace capstan
