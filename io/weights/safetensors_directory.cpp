// A Hugging Face directory's tensors.

#include <algorithm>
#include <deque>
#include <set>

#include "core/error.h"
#include "io/file_system.h"
#include "io/json_events.h"
#include "io/printable.h"
#include "io/safetensors.h"
#include "io/weights/meta_layout.h"
#include "io/weights/tensor_files.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr size_t kShardsHeldOpen = 16;

/// {"metadata": {...}, "weight_map": {tensor: file}} as events; what else there is is checked for syntax and dropped.
class IndexReader : public JsonEvents {
 public:
  explicit IndexReader(const std::string& where) : where_(where) {}
  std::map<std::string, std::string, std::less<>> files;
  bool found = false;

  void object_begin() override {
    if (depth_ == 0) begun_ = true;
    if (depth_ == 1 && key_ == "weight_map") in_map_ = found = true;
    if (depth_ == 2 && in_map_) throw refused("an object");
    ++depth_;
  }
  void object_end() override {
    if (--depth_ == 1) in_map_ = false;
  }
  void array_begin() override { nothing_here("an array"), ++depth_; }
  void array_end() override { --depth_; }
  void key(std::string_view name) override { key_ = name; }
  void text(std::string_view value) override {
    if (depth_ == 2 && in_map_)
      add(value);
    else
      nothing_here("a string");
  }
  void count(uint64_t) override { nothing_here("a number"); }
  void negative(int64_t) override { nothing_here("a number"); }
  void real(double) override { nothing_here("a number"); }
  void boolean(bool) override { nothing_here("true or false"); }
  void null() override { nothing_here("null"); }

 private:
  Error refused(const char* got) const {
    return Error::make(ExitCode::bad_data, "{}: weight_map, '{}': wanted the name of a file, got {}", where_,
                       printable(key_), got);
  }
  void nothing_here(const char* got) const {
    if (!begun_) throw Error::make(ExitCode::bad_data, "{}: wanted an object with a weight_map, got {}", where_, got);
    if (in_map_) throw refused(got);
    if (depth_ == 1 && key_ == "weight_map") throw refused(got);
  }
  void add(std::string_view file) {
    const bool plain = file.size() <= kMaxShardName && file.ends_with(".safetensors") && file.front() != '.' &&
                       file.find('/') == file.npos && file.find('\\') == file.npos && file.find('\0') == file.npos;
    if (!plain)
      throw Error::make(ExitCode::bad_data,
                        "{}: weight_map, '{}': wanted the plain name of a .safetensors file beside the index, got '{}'",
                        where_, printable(key_), printable(file));
    if (key_.empty()) throw Error::make(ExitCode::bad_data, "{}: weight_map: a tensor without a name", where_);
    if (files.size() == kMaxSafetensorsEntries)
      throw Error::make(ExitCode::bad_data, "{}: weight_map names more than {} tensors", where_,
                        kMaxSafetensorsEntries);
    files.emplace(key_, file);
  }

  const std::string& where_;
  std::string key_;
  int depth_ = 0;
  bool begun_ = false, in_map_ = false;
};

/// Shards are opened when they are read from, a few at a time: a model may have more of them than a process may have
/// files.
class SafetensorsDirectory : public TensorFiles {
 public:
  explicit SafetensorsDirectory(const fs::path& directory) : TensorFiles(directory) {}

  void add(const std::string& name) {
    const SafetensorsFile file = SafetensorsFile::open_beneath(path_, name);
    shards_.push_back({name, file.file_bytes()});
    for (const SafetensorsEntry& entry : file.entries()) {
      if (!tensors_.emplace(entry.name, StoredTensor{entry.dtype, entry.shape, entry.bytes, entry.type}).second)
        throw Error::make(ExitCode::bad_data, "{}: tensor '{}' is in another shard too", file.path().string(),
                          printable(entry.name));
      places_.emplace(entry.name, Place{shards_.size() - 1, entry.offset});
    }
  }
  void read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const override {
    const auto place = places_.find(name);
    if (place == places_.end())
      throw Error::make(ExitCode::bad_data, "{}: wanted tensor '{}', there is none", path_.string(), printable(name));
    if (const uint64_t most = find(name)->bytes; first_byte > most || bytes > most - first_byte)
      throw Error::make(ExitCode::bad_data, "{}: wanted bytes {} to {}+{} of tensor '{}', it has {}", path_.string(),
                        first_byte, first_byte, bytes, printable(name), most);
    const auto& [shard, offset] = place->second;
    read_exactly(opened(shard), path_ / shards_[shard].name, dst, offset + first_byte, bytes);
  }
  /// The file that holds it; empty when none does.
  std::string_view holder(std::string_view name) const {
    const auto place = places_.find(name);
    return place == places_.end() ? std::string_view() : shards_[place->second.shard].name;
  }

 private:
  struct Shard {
    std::string name;
    uint64_t bytes;
  };
  struct Place {
    size_t shard;
    uint64_t offset;  ///< from the start of the file
  };
  struct Opened {
    size_t shard;
    FileDescriptor file;
  };

  const FileDescriptor& opened(size_t shard) const {
    for (const Opened& held : opened_)
      if (held.shard == shard) return held.file;
    if (opened_.size() == kShardsHeldOpen) opened_.pop_front();
    const fs::path where = path_ / shards_[shard].name;
    FileDescriptor file = open_beneath(path_, shards_[shard].name);
    if (size_of(file, where) != shards_[shard].bytes)
      throw Error::make(ExitCode::bad_data, "{}: wanted {} bytes as before, the file has {}: it was changed meanwhile",
                        where.string(), shards_[shard].bytes, size_of(file, where));
    opened_.push_back({shard, std::move(file)});
    return opened_.back().file;
  }

  std::vector<Shard> shards_;
  std::map<std::string, Place, std::less<>> places_;
  mutable std::deque<Opened> opened_;
};

void open_shards(SafetensorsDirectory& directory, const fs::path& path) {
  const fs::path index = path / kSafetensorsIndexName;
  const auto map = parse_shard_index(read_file_beneath(path, kSafetensorsIndexName, kMaxIndexBytes), index.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  if (names.size() > kMaxShards)
    throw Error::make(ExitCode::bad_data, "{}: names {} files, wanted at most {}", index.string(), names.size(),
                      kMaxShards);
  for (const std::string& name : names) directory.add(name);
  for (const auto& [tensor, file] : map)
    if (const std::string_view holder = directory.holder(tensor); holder != file)
      throw Error::make(ExitCode::bad_data, "{}: says that tensor '{}' is in {}, it is {}", index.string(),
                        printable(tensor), printable(file), holder.empty() ? "not there" : "in " + printable(holder));
  for (const auto& [tensor, stored] : directory.tensors())
    if (!map.contains(tensor))
      throw Error::make(ExitCode::bad_data,
                        "{} holds tensor '{}', which {} does not name: the two are not of one model; take both from "
                        "where they came from again",
                        (path / directory.holder(tensor)).string(), printable(tensor), kSafetensorsIndexName);
}

/// How to make safetensors of a pickle that was found.
std::string way_out(const std::string& directory, std::string_view pickle) {
  if (pickle != kMetaPickle)
    return fmt::format(
        "python3 -c \"from transformers import AutoModelForCausalLM as M; "
        "M.from_pretrained('{}').save_pretrained('{}-safetensors')\"",
        directory, directory);
  return fmt::format(
      "python3 -c \"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in "
      "torch.load('{}/{}', map_location='cpu').items()}}, '{}/{}')\"\n(a model cut into several such files is "
      "published "
      "whole in Hugging Face's layout)",
      directory, pickle, directory, kMetaWeights);
}

[[noreturn]] void refuse_other(const fs::path& directory) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", kMetaPickle})
    if (anything_at(directory / name))
      throw Error::make(ExitCode::bad_data,
                        "{} holds {} and no safetensors: a pickle is a program that runs when it is read, so it is not "
                        "read here; make safetensors of it on a machine that you would let it run on:\n  {}",
                        directory.string(), name, way_out(directory.string(), name));
  throw Error::make(ExitCode::missing_input, "{} holds neither {} nor {}; wanted a Hugging Face model directory",
                    directory.string(), kSafetensorsName, kSafetensorsIndexName);
}

}  // namespace

const StoredTensor* TensorFiles::find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

std::map<std::string, std::string, std::less<>> parse_shard_index(std::string_view text, const std::string& where) {
  IndexReader reader(where);
  JsonLimits limits;
  limits.depth = 8;
  limits.key_bytes = kMaxTensorName;
  limits.string_bytes = 4096;
  parse_json_events(text, where, limits, reader);
  if (!reader.found || reader.files.empty())
    throw Error::make(ExitCode::bad_data, "{}: there is no weight_map, or it is empty", where);
  return std::move(reader.files);
}

std::unique_ptr<TensorFiles> open_meta_weights(const fs::path& directory) {
  auto files = std::make_unique<SafetensorsDirectory>(directory);
  if (!anything_at(directory / kMetaWeights)) refuse_other(directory);
  files->add(kMetaWeights);
  return files;
}

std::unique_ptr<TensorFiles> open_safetensors_directory(const fs::path& directory) {
  if (!directory_at(directory))
    throw Error::make(ExitCode::missing_input, "there is no directory {}; wanted a Hugging Face model directory",
                      directory.string());
  auto files = std::make_unique<SafetensorsDirectory>(directory);
  if (anything_at(directory / kSafetensorsName))
    files->add(kSafetensorsName);
  else if (anything_at(directory / kSafetensorsIndexName))
    open_shards(*files, directory);
  else
    refuse_other(directory);
  return files;
}

}  // namespace capstan
