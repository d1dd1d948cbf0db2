#pragma once
// RunDirectory: config.toml (as effective), metrics.jsonl, data.json, checkpoints/, flight/. Made by rank 0; every rank
// reads checkpoints. TrainingState is what a checkpoint carries besides tensors.

#include <filesystem>
#include <string>

#include "core/config/config_reader.h"
#include "io/corpus/ledger.h"
#include "io/file_system.h"

namespace capstan {

class RunDirectory {
 public:
  explicit RunDirectory(const std::string& path) : path_(path) {}
  std::filesystem::path path() const { return path_; }
  std::filesystem::path config() const { return path_ / kRunConfigName; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  /// The tokenizer of a model that came from elsewhere; other runs have that of their corpus.
  std::filesystem::path tokenizer() const { return path_ / "tokenizer.json"; }
  /// Files that came with such a model and leave with it again.
  std::filesystem::path travelling() const { return path_ / "hugging_face"; }
  /// What was and will be read of each corpus, and the ledger.
  std::filesystem::path data() const { return path_ / "data.json"; }
  std::filesystem::path checkpoints() const { return path_ / kRunCheckpointsName; }
  /// Where each rank keeps its position (parallel/flight_record.h).
  std::filesystem::path flights() const { return path_ / "flight"; }
  /// Makes the directories. Error cannot_create.
  void create() const;
  /// Keeps other jobs out for as long as this object and its process live; the kernel ends the lock with the process,
  /// so none is ever left behind. Error cannot_create naming the job that holds it. False where the file system has no
  /// locks.
  bool lock();
  void write_config(const RunConfig& config) const;

 private:
  std::filesystem::path path_;
  FileDescriptor lock_;
};

struct TrainingState {
  int64_t step = 0;       ///< steps done
  uint64_t samples = 0;   ///< the data cursor
  int64_t updates = 0;    ///< steps that were not skipped: t of AdamW
  int64_t bad_steps = 0;  ///< skipped so far, and in a row
  int64_t bad_in_a_row = 0;
  double loss_scale = 0.0;  ///< of the next step, in fp16; 0: none was kept
  double good_steps = 0.0;  ///< since it last changed
  uint64_t tokens = 0;
  uint64_t blank_tokens = 0;  ///< read blank: held out elsewhere, or left empty by packing
  std::string tokenizer;      ///< hash
  std::string corpus;         ///< digest of the stream: equal means that the cursor names the same sample
  std::string config;         ///< effective TOML
  std::string numerics;       ///< what bitwise repetition depends on, as one line
  bool weights_only = false;  ///< converted from elsewhere: no moments, nothing was trained yet
  Ledger ledger;              ///< which samples were read, together with `samples`

  std::string to_json() const;
  static TrainingState from_json(const std::string& text, const std::string& where);
};

}  // namespace capstan
