#pragma once
// A run directory opened for use: its config, its newest good checkpoint, its tokenizer.

#include <memory>
#include <string>

#include "core/config/run_config.h"
#include "core/generation_program.h"
#include "io/checkpoint/checkpoint.h"
#include "io/corpus/corpus.h"
#include "launch/run_directory.h"

namespace capstan {

struct FinishedRun {
  RunConfig config;
  TrainingState state;
  Checkpoint checkpoint;
  std::vector<std::string> complaints;  ///< about newer checkpoints that were passed over
  std::filesystem::path directory;
};

/// What of a checkpoint is held against its hashes before it is taken: every byte, or the manifest alone, for who reads
/// a part of it, slice by slice, each of which is verified then.
enum class Verified { whole, as_it_is_read };
/// The newest checkpoint that is good; `complaints`: why newer ones were passed over. Error missing_input when there is
/// none, bad_data when all are damaged, with the reasons.
Checkpoint newest_checkpoint(const RunDirectory& directory, std::vector<std::string>& complaints,
                             Verified verified = Verified::whole);
/// `step` -1: the newest good checkpoint. Error missing_input or bad_data.
FinishedRun open_run(const std::string& directory, int64_t step = -1);
/// Error config where a tokenizer has ids that the model has no rows for; `whose`: a corpus or a run.
void check_vocabulary(const Tokenizer& tokenizer, const std::string& whose, const DecoderConfig& model);
/// The tokenizer the run was trained with: the one that came with a converted model, else that of its first corpus,
/// checked against the checkpoint. Error config.
std::shared_ptr<const Tokenizer> tokenizer_of(const RunDirectory& directory, const RunConfig& config,
                                              const std::string& hash);
inline std::shared_ptr<const Tokenizer> tokenizer_of(const FinishedRun& run) {
  return tokenizer_of(RunDirectory(run.directory.string()), run.config, run.state.tokenizer);
}

}  // namespace capstan
