#include "launch/finished_run.h"

#include "core/config/config_reader.h"
#include "core/error.h"

namespace capstan {
namespace {

std::optional<Checkpoint> newest_with_manifest(const std::filesystem::path& checkpoints,
                                               std::vector<std::string>& complaints) {
  for (const CheckpointLocation& location : find_checkpoints(checkpoints)) try {
      return Checkpoint::open(location.path);
    } catch (const Error& error) {
      complaints.push_back(fmt::format("{} was passed over: {}", location.path.string(), error.what()));
    }
  return std::nullopt;
}

}  // namespace

Checkpoint newest_checkpoint(const RunDirectory& directory, std::vector<std::string>& complaints, Verified verified) {
  std::optional<Checkpoint> checkpoint = verified == Verified::whole
                                             ? open_newest_good(directory.checkpoints(), complaints)
                                             : newest_with_manifest(directory.checkpoints(), complaints);
  if (checkpoint) return std::move(*checkpoint);
  std::string why;
  for (const std::string& complaint : complaints) why += "\n" + complaint;
  if (!find_checkpoints(directory.checkpoints()).empty())
    throw Error::make(ExitCode::bad_data,
                      "{} holds no usable checkpoint:{}\ntake the run from a good copy, or name a checkpoint: --step N",
                      directory.checkpoints().string(), why);
  throw Error::make(ExitCode::missing_input,
                    "{} holds no usable checkpoint{}; train first: capstan train CONFIG.toml run.dir={}",
                    directory.checkpoints().string(), why, directory.path().string());
}

FinishedRun open_run(const std::string& path, int64_t step) {
  const RunDirectory directory(path);
  if (!directory_at(directory.path()))
    throw Error::make(ExitCode::missing_input, "there is no run directory {}; wanted one made by capstan train", path);
  std::vector<std::string> complaints;
  Checkpoint checkpoint =
      step < 0 ? newest_checkpoint(directory, complaints)
               : Checkpoint::open(directory.checkpoints() / checkpoint_name(static_cast<uint64_t>(step)));
  TrainingState state = TrainingState::from_json(checkpoint.state(), checkpoint.path().string());
  RunConfig config = parse_run_config(state.config, "config of " + checkpoint.path().string());
  return {std::move(config), std::move(state), std::move(checkpoint), std::move(complaints), directory.path()};
}

void check_vocabulary(const Tokenizer& tokenizer, const std::string& whose, const DecoderConfig& model) {
  if (tokenizer.vocabulary() <= static_cast<uint64_t>(model.vocabulary)) return;
  throw Error::make(ExitCode::config,
                    "the model has a vocabulary of {}, but the tokenizer of {} has {} tokens: this model was not made "
                    "with it",
                    model.vocabulary, whose, tokenizer.vocabulary());
}

namespace {

std::shared_ptr<const Tokenizer> tokenizer_with_hash(const RunDirectory& directory, const RunConfig& config,
                                                     const std::string& hash) {
  if (anything_at(directory.tokenizer())) {
    std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(directory.tokenizer());
    if (tokenizer->hash() == hash) return tokenizer;
  }
  if (config.data.corpora.empty())
    throw Error::make(ExitCode::config,
                      "{} came without a tokenizer that can be read, and no corpus was named; convert again from a "
                      "directory that holds one",
                      directory.path().string());
  const auto corpus = Corpus::open(config.data.corpora[0]);
  if (corpus->tokenizer().hash() != hash)
    throw Error::make(ExitCode::config,
                      "the tokenizer of {} (hash {}) is not the one this run was trained with (hash {})",
                      config.data.corpora[0], corpus->tokenizer().hash(), hash);
  return corpus->shared_tokenizer();
}

}  // namespace

std::shared_ptr<const Tokenizer> tokenizer_of(const RunDirectory& directory, const RunConfig& config,
                                              const std::string& hash) {
  const std::shared_ptr<const Tokenizer> tokenizer = tokenizer_with_hash(directory, config, hash);
  check_vocabulary(*tokenizer, directory.path().string(), config.model);
  return tokenizer;
}

}  // namespace capstan
