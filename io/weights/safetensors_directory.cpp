// A Hugging Face directory's tensors.

#include <algorithm>
#include <deque>
#include <set>

#include "core/error.h"
#include "io/json_events.h"
#include "io/safetensors.h"
#include "io/weights/meta_layout.h"
#include "io/weights/tensor_files.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

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
    return Error::make(ExitCode::bad_data, "{}: weight_map, '{}': wanted the name of a file, got {}", where_, key_,
                       got);
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
                        where_, key_, file.substr(0, 80));
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

class SafetensorsDirectory : public TensorFiles {
 public:
  explicit SafetensorsDirectory(const fs::path& directory) : TensorFiles(directory) {}

  void add(SafetensorsFile file) {
    files_.push_back(std::move(file));
    for (const SafetensorsEntry& entry : files_.back().entries()) {
      if (!tensors_.emplace(entry.name, StoredTensor{entry.dtype, entry.shape, entry.bytes}).second)
        throw Error::make(ExitCode::bad_data, "{}: tensor '{}' is in another shard too", files_.back().path().string(),
                          entry.name);
      holders_[entry.name] = files_.size() - 1;
    }
  }
  void read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const override {
    const auto at = holders_.find(name);
    if (at == holders_.end())
      throw Error::make(ExitCode::bad_data, "{}: wanted tensor '{}', there is none", path_.string(), name);
    files_[at->second].read(name, dst, first_byte, bytes);
  }
  const SafetensorsFile* holder(std::string_view name) const {
    const auto at = holders_.find(name);
    return at == holders_.end() ? nullptr : &files_[at->second];
  }

 private:
  std::deque<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> holders_;
};

void open_shards(SafetensorsDirectory& directory, const fs::path& path) {
  const fs::path index = path / kSafetensorsIndexName;
  const auto map = parse_shard_index(read_whole_file(index, kMaxIndexBytes), index.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  if (names.size() > kMaxShards)
    throw Error::make(ExitCode::bad_data, "{}: names {} files, wanted at most {}", index.string(), names.size(),
                      kMaxShards);
  for (const std::string& name : names) directory.add(SafetensorsFile::open_beneath(path, name));
  for (const auto& [tensor, file] : map) {
    const SafetensorsFile* holder = directory.holder(tensor);
    if (holder == nullptr || holder->path().filename() != file)
      throw Error::make(ExitCode::bad_data, "{}: says that tensor '{}' is in {}, it is {}", index.string(), tensor,
                        file, holder ? "in " + holder->path().filename().string() : "not there");
  }
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
    if (fs::exists(directory / name))
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
  if (!fs::exists(fs::symlink_status(directory / kMetaWeights))) refuse_other(directory);
  files->add(SafetensorsFile::open_beneath(directory, kMetaWeights));
  return files;
}

std::unique_ptr<TensorFiles> open_safetensors_directory(const fs::path& directory) {
  if (!fs::is_directory(directory))
    throw Error::make(ExitCode::missing_input, "there is no directory {}; wanted a Hugging Face model directory",
                      directory.string());
  auto files = std::make_unique<SafetensorsDirectory>(directory);
  if (fs::exists(directory / kSafetensorsName))
    files->add(SafetensorsFile::open(directory / kSafetensorsName));
  else if (fs::exists(directory / kSafetensorsIndexName))
    open_shards(*files, directory);
  else
    refuse_other(directory);
  return files;
}

}  // namespace capstan
