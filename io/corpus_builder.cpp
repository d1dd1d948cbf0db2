#include "io/corpus_builder.h"

#include <regex>

#include "core/error.h"
#include "io/corpus_shard_writer.h"
#include "io/corpus_split.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

/// Names that a build makes, and so may remove when an earlier one was killed.
bool is_build_product(const fs::path& path) {
  static const std::regex ours(
      "(train|validation)-[0-9]{5,}\\.h5(\\.partial)?|(tokenizer|manifest)\\.json(\\.partial)?|"
      "corpus\\.building(\\.partial)?");
  return std::regex_match(path.filename().string(), ours);
}

void prepare_directory(const fs::path& out) {
  create_directory_durably(out);
  if (fs::exists(out / kManifestName))
    throw Error::make(ExitCode::cannot_create,
                      "{}: a corpus is here already; choose another --out, or remove this one yourself", out.string());
  const fs::path marker = out / kBuildMarker;
  const bool unfinished = fs::exists(marker) || fs::exists(partial_name(marker));
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (!unfinished || !is_build_product(entry.path()) || !entry.is_regular_file())
      throw Error::make(ExitCode::cannot_create, "{}: wanted an empty or new directory, found {} in it", out.string(),
                        entry.path().filename().string());
    if (entry.path().filename() != kBuildMarker) stale.push_back(entry.path());
  }
  if (!fs::exists(marker)) write_file_atomically(marker, "a corpus is being built here\n");
  for (const fs::path& path : stale) fs::remove(path);
}

/// One split on its way to disk.
class SplitWriter {
 public:
  SplitWriter(const fs::path& out, Split which, const CorpusManifest& manifest, uint64_t shard_tokens)
      : out_(out), which_(which), manifest_(manifest), shard_tokens_(shard_tokens) {}

  void add(std::span<const uint32_t> tokens, uint64_t text_bytes) {
    if (!writer_) {
      const std::string file = fmt::format("{}-{:05}.h5", name_of(which_), shards_.size());
      writer_ = std::make_unique<CorpusShardWriter>(out_, file, manifest_);
    }
    writer_->append(tokens, text_bytes);
  }
  void end_document() {
    writer_->end_document();
    if (writer_->tokens() >= shard_tokens_) finish_shard();
  }
  std::vector<ShardRecord> finish() {
    if (writer_) finish_shard();
    return std::move(shards_);
  }

 private:
  void finish_shard() {
    shards_.push_back(writer_->finish());
    writer_.reset();
  }

  fs::path out_;
  Split which_;
  const CorpusManifest& manifest_;
  uint64_t shard_tokens_;
  std::unique_ptr<CorpusShardWriter> writer_;
  std::vector<ShardRecord> shards_;
};

class Build {
 public:
  Build(const CorpusBuildOptions& options, const Tokenizer& tokenizer,
        const std::function<void(const CorpusBuildProgress&)>& progress)
      : options_(options), tokenizer_(tokenizer), progress_(progress) {
    manifest_.tokenizer_name = tokenizer.name();
    manifest_.tokenizer_hash = tokenizer.hash();
    manifest_.vocabulary = tokenizer.vocabulary();
    manifest_.end_of_document = tokenizer.end_of_document();
  }

  CorpusBuildResult run() {
    if (options_.shard_tokens == 0) throw Error(ExitCode::usage, "--shard-tokens: wanted 1 or more, got 0");
    const InputList inputs = list_inputs(options_.inputs);
    state_.input_total = inputs.bytes();
    report("looking at the inputs");
    const SplitRule rule = plan_split(inputs.files, options_.documents, options_.validation);
    prepare_directory(options_.out);
    pack(inputs, rule);
    tokenizer_.save(options_.out);
    write_file_atomically(options_.out / kManifestName, manifest_.serialize());
    fs::remove(options_.out / kBuildMarker);
    sync_directory(options_.out);
    return {manifest_, rule.by_document, empty_, inputs.skipped};
  }

 private:
  void report(const char* stage) {
    state_.stage = stage;
    if (progress_) progress_(state_);
  }

  void pack(const InputList& inputs, const SplitRule& rule) {
    SplitWriter train(options_.out, Split::train, manifest_, options_.shard_tokens);
    SplitWriter validation(options_.out, Split::validation, manifest_, options_.shard_tokens);
    const auto side = [&](Split which) -> SplitWriter& { return which == Split::train ? train : validation; };
    SplitAssigner assigner(
        rule,
        [&](Split which, std::string_view text) {
          tokens_.clear();
          tokenizer_.encode_into(text, tokens_);
          side(which).add(tokens_, text.size());
          state_.tokens += tokens_.size();
        },
        [&](Split which) {
          side(which).end_document();
          state_.tokens += 1;
          state_.documents += 1;
        });
    DocumentReader reader(inputs.files, options_.documents);
    uint64_t pieces = 0;
    for (DocumentPiece piece; reader.next(piece);) {
      assigner.add(piece);
      state_.input_bytes = reader.consumed();
      if (++pieces % 64 == 0 || piece.text.size() > kLargestPiece / 2) report("packing");
    }
    empty_ = reader.empty_documents();
    state_.input_bytes = reader.consumed();
    report("finishing");
    manifest_.train.shards = train.finish();
    manifest_.validation.shards = validation.finish();
    for (const Split which : {Split::train, Split::validation})
      if (manifest_.split(which).shards.empty())
        throw Error::make(ExitCode::bad_data,
                          "the {} split got no text: the inputs are too small, or changed while they were being read",
                          name_of(which));
  }

  const CorpusBuildOptions& options_;
  const Tokenizer& tokenizer_;
  const std::function<void(const CorpusBuildProgress&)>& progress_;
  CorpusManifest manifest_;
  CorpusBuildProgress state_;
  std::vector<uint32_t> tokens_;
  uint64_t empty_ = 0;
};

}  // namespace

CorpusBuildResult build_corpus(const CorpusBuildOptions& options, const Tokenizer& tokenizer,
                               const std::function<void(const CorpusBuildProgress&)>& progress) {
  return Build(options, tokenizer, progress).run();
}

}  // namespace capstan
