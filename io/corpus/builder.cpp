#include "io/corpus/builder.h"

#include <cstring>
#include <thread>

#include "core/error.h"
#include "io/corpus/build_directory.h"
#include "io/corpus/build_pipeline.h"
#include "io/corpus/document_parser.h"
#include "io/corpus/document_router.h"
#include "io/corpus/piece_encoder.h"
#include "io/corpus/split.h"
#include "io/corpus/split_writer.h"
#include "io/file_system.h"
#include "io/json_events.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

int threads_of(const CorpusBuildOptions& options) {
  if (options.threads < 0) throw Error::make(ExitCode::usage, "--threads: wanted 1 or more, got {}", options.threads);
  return options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

BuildRequest full_request(const CorpusBuildOptions& options, const InputList& inputs, const CorpusManifest& manifest) {
  const SplitRule& rule = manifest.split_rule;
  BuildRequest request = describe_request(options, inputs);
  request.push_back("tokenizer " + manifest.tokenizer_hash);
  request.push_back(rule.by_document ? fmt::format("split by document, threshold {}", rule.threshold)
                                     : fmt::format("split by place, byte {}", rule.train_bytes));
  return request;
}

class Build {
 public:
  Build(const CorpusBuildOptions& options, const Tokenizer& tokenizer, const CorpusBuildObserver& progress)
      : options_(options), tokenizer_(tokenizer), progress_(progress), threads_(threads_of(options)) {
    manifest_.tokenizer_name = tokenizer.name();
    manifest_.tokenizer_hash = tokenizer.hash();
    manifest_.vocabulary = tokenizer.vocabulary();
    manifest_.end_of_document = tokenizer.end_of_document();
    manifest_.duplicates_dropped = options.drop_duplicates;
    manifest_.metadata_fields = options.documents.metadata;
  }

  CorpusBuildResult run() {
    if (options_.shard_tokens == 0) throw Error(ExitCode::usage, "--shard-tokens: wanted 1 or more, got 0");
    const InputList inputs = options_.listed ? *options_.listed : list_inputs(options_.inputs, options_.documents);
    report("looking at the inputs");
    manifest_.split_rule = plan_split(inputs.files, options_.documents,
                                      {options_.validation, options_.drop_duplicates, options_.skip_bad, &tokenizer_});
    result_.split_by_document = manifest_.split_rule.by_document;
    result_.skipped = inputs.skipped;
    const BuildRequest request = full_request(options_, inputs, manifest_);
    if (BuildDirectory::finish_interrupted(options_.out, request)) {
      result_.manifest = read_manifest(options_.out);
      return std::move(result_);
    }
    BuildDirectory directory(options_.out, manifest_);
    directory.prepare(request, [&](uint64_t done, uint64_t total) {
      state_.input_bytes = done;
      state_.input_total = total;
      report("checking finished shards");
    });
    result_.started_anew = directory.started_anew();
    result_.reused_shards = directory.known(Split::train).size() + directory.known(Split::validation).size();
    tokenizer_.save(options_.out);
    pack(inputs, directory);
    directory.complete(manifest_);
    result_.manifest = std::move(manifest_);
    return std::move(result_);
  }

 private:
  void report(const char* stage) {
    state_.stage = stage;
    if (progress_) progress_(state_);
  }

  SplitWriter writer_of(Split which, BuildDirectory& directory) const {
    return SplitWriter(options_.out, which, manifest_, options_.shard_tokens, directory.known(which),
                       [&directory](Split split, const ShardRecord& record) { directory.add_finished(split, record); });
  }

  void pack(const InputList& inputs, BuildDirectory& directory) {
    state_.input_bytes = 0;
    state_.input_total = 0;
    bool counted = true;
    for (const InputFile& file : inputs.files) counted = counted && !file.standard_input;
    if (counted) state_.input_total = inputs.bytes();
    SplitWriter train = writer_of(Split::train, directory), validation = writer_of(Split::validation, directory);
    DocumentRouter router(inputs.files, router_options(directory), &tokenizer_);
    std::vector<std::unique_ptr<DocumentParser>> parsers;
    std::vector<std::unique_ptr<PieceEncoder>> encoders;
    for (int i = 0; i < threads_; ++i) {
      parsers.push_back(
          std::make_unique<DocumentParser>(inputs.files, options_.documents, &tokenizer_, options_.drop_duplicates));
      encoders.push_back(std::make_unique<PieceEncoder>(tokenizer_));
    }
    const auto may_cut = [this](std::string_view text, size_t at) { return tokenizer_.may_cut(text, at); };
    const PipelineStages stages{
        [&](Block& block, int thread) { parsers[static_cast<size_t>(thread)]->parse(block); },
        [&](Block& block) { router.route(block); },
        [&](Block& block, int thread) { encoders[static_cast<size_t>(thread)]->encode(block); }};
    {
      BuildPipeline pipeline(inputs.files,
                             {options_.documents.split, may_cut, Reading::whole, options_.drop_duplicates}, stages,
                             threads_);
      for (Block block; pipeline.next(block);) write(block, train, validation);
    }
    finish(router.tally(), train, validation);
  }

  RouterOptions router_options(const BuildDirectory& directory) const {
    RouterOptions options{manifest_.split_rule, options_.drop_duplicates, options_.skip_bad, {0, 0}};
    for (const ShardRecord& shard : directory.known(Split::train)) options.known_documents[0] += shard.documents;
    for (const ShardRecord& shard : directory.known(Split::validation)) options.known_documents[1] += shard.documents;
    return options;
  }

  void write(const Block& block, SplitWriter& train, SplitWriter& validation) {
    for (const BlockPiece& piece : block.pieces) {
      (piece.split == Split::train ? train : validation).add(piece, block);
      state_.documents += piece.ends;
      state_.tokens += piece.tokens + piece.ends;
    }
    state_.input_bytes += block.consumed;
    result_.forced_cuts += block.forced_cuts;
    report("packing");
  }

  void finish(const RouterTally& tally, SplitWriter& train, SplitWriter& validation) {
    report("finishing");
    manifest_.train.shards = train.finish();
    manifest_.validation.shards = validation.finish();
    for (const Split which : {Split::train, Split::validation})
      if (manifest_.split(which).shards.empty())
        throw Error::make(ExitCode::bad_data,
                          "the {} split got no text: the inputs are too small, "
                          "or changed while they were being read",
                          name_of(which));
    result_.empty_documents = tally.empty;
    result_.duplicates = tally.duplicates;
    result_.duplicate_bytes = tally.duplicate_bytes;
    result_.bad_lines = tally.bad_lines;
    result_.first_bad_lines = tally.first_bad;
  }

  const CorpusBuildOptions& options_;
  const Tokenizer& tokenizer_;
  const CorpusBuildObserver& progress_;
  const int threads_;
  CorpusManifest manifest_;
  CorpusBuildProgress state_;
  CorpusBuildResult result_;
};

}  // namespace

CorpusBuildResult build_corpus(const CorpusBuildOptions& options, const Tokenizer& tokenizer,
                               const CorpusBuildObserver& progress) {
  return Build(options, tokenizer, progress).run();
}

std::vector<std::string> describe_request(const CorpusBuildOptions& options, const InputList& inputs) {
  BuildRequest request{
      fmt::format("format {}", kCorpusFormatVersion),
      fmt::format("option field {}", json_quote(options.documents.field)),
      fmt::format("option split-documents {}", options.documents.split == DocumentSplit::blank ? "blank" : "none"),
      fmt::format("option keep-metadata {}", json_quote(joined(options.documents.metadata))),
      fmt::format("option shard-tokens {}", options.shard_tokens),
      fmt::format("option drop-duplicates {}", options.drop_duplicates),
      fmt::format("option skip-bad {}", options.skip_bad),
      fmt::format("tokenizer is {}", options.tokenizer_origin.empty() ? "given" : options.tokenizer_origin)};
  for (const InputFile& file : inputs.files)
    request.push_back(fmt::format("input {} {} of {} bytes, changed at {}", name_of(file.format),
                                  json_quote(file.path.string()), file.size, file.modified));
  return request;
}

uint64_t build_memory(int threads) {
  constexpr uint64_t kFixed = uint64_t{128} << 20, kEach = uint64_t{48} << 20;
  return kFixed + kEach * static_cast<uint64_t>(threads);
}

}  // namespace capstan
