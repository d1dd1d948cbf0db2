#include "launch/corpus_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "core/error.h"
#include "io/corpus/corpus.h"
#include "io/corpus/corpus_text.h"
#include "io/corpus/stream_samples.h"
#include "io/corpus/tokens.h"
#include "launch/corpus_build_command.h"
#include "launch/corpus_texts.h"

namespace capstan {
namespace {

/// Text for a terminal: control characters and broken UTF-8 become spaces, lines are indented.
std::string tame(const std::string& text) {
  std::string out = "    ";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
    bool good = length > 0 && c < 0xf5 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (c == 0xc2 && good) good = static_cast<unsigned char>(text[i + 1]) >= 0xa0;  // C1 controls steer terminals too
    if (c == '\n')
      out += "\n    ";
    else if (!good || c < 0x20 || c == 0x7f)
      out += ' ';
    else
      out += text.substr(i, length);
    if (good) i += length - 1;
  }
  return out;
}

void print_facts(const CorpusManifest& manifest) {
  const SplitRule& rule = manifest.split_rule;
  if (rule.by_document)
    fmt::print("  held out: documents whose hash is below {} of 2^64 ({:.3g}%)\n", thousands(rule.threshold),
               100 * static_cast<double>(rule.threshold) / 0x1p64);
  else
    fmt::print("  held out: the text from byte {} on\n", thousands(rule.train_bytes));
  if (manifest.duplicates_dropped) fmt::print("  exact duplicates were dropped\n");
  if (!manifest.metadata_fields.empty())
    fmt::print("  metadata of every document: {}\n", fmt::join(manifest.metadata_fields, ", "));
}

void run_info(const std::string& directory) {
  const auto corpus = Corpus::open(directory);
  corpus->require_shards();
  const CorpusManifest& manifest = corpus->manifest();
  fmt::print("corpus {}: tokenizer {} ({}), vocabulary {}, {} bytes a token\n", directory, manifest.tokenizer_name,
             manifest.tokenizer_hash, thousands(manifest.vocabulary), manifest.token_width());
  print_splits(manifest);
  print_facts(manifest);
  fmt::print("  digest of the manifest: {}\n", corpus->digest());
  fmt::print("  the first training text:\n{}\n", tame(corpus_sample(*corpus, Split::train, 400)));
}

void run_verify(const std::string& directory) {
  constexpr size_t kMostProblems = 20;
  std::vector<CorpusProblem> problems;
  {
    ProgressLine line;
    problems = verify_corpus(directory, kMostProblems, [&](const CorpusVerifyProgress& progress) {
      line.show("reading", progress.bytes, progress.total);
    });
  }
  if (problems.empty()) {
    const CorpusManifest manifest = read_manifest(directory);
    fmt::print("corpus {}: good: {} in {}, every chunk matches its hash\n", directory,
               counted(manifest.train.tokens() + manifest.validation.tokens(), "token"),
               counted(manifest.train.shards.size() + manifest.validation.shards.size(), "shard"));
    return;
  }
  std::string message = fmt::format("corpus {}: {}{}", directory, problems.size() == kMostProblems ? "at least " : "",
                                    counted(problems.size(), "problem"));
  ExitCode code = problems.front().code;
  for (const CorpusProblem& problem : problems) {
    message += "\n  " + problem.message;
    if (problem.code == ExitCode::bad_data) code = ExitCode::bad_data;
  }
  throw Error(code, message);
}

struct TextArguments {
  std::string directory, split = "validation";
};

/// The whole split as text, a document after the other.
void run_text(const TextArguments& arguments) {
  const std::shared_ptr<const Corpus> corpus = Corpus::open(arguments.directory);
  corpus_text(*corpus, arguments.split == "train" ? Split::train : Split::validation, [](std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size())
      throw Error::make(ExitCode::io_error, "cannot write the text to standard output");
  });
}

void add_text(CLI::App& corpus, std::function<void()>& action) {
  const auto arguments = std::make_shared<TextArguments>();
  CLI::App* verb = corpus.add_subcommand("text", "Print a split as text, as the model is asked to predict it");
  verb->add_option("directory", arguments->directory, "a corpus directory")->required();
  verb->add_option("--split", arguments->split, "train or validation")
      ->capture_default_str()
      ->check(CLI::IsMember({"train", "validation"}));
  verb->footer("Example:\n  capstan corpus text corpus --split validation | xz -9 | wc -c");
  verb->callback([arguments, &action] { action = [arguments] { run_text(*arguments); }; });
}

struct PlaceArguments {
  std::string directory;
  uint64_t sample = 0, context = 1024, seed = 1;
  bool text = false;
};

/// Where a training sample of this corpus alone begins; from the manifest, no shard is opened unless text is wanted.
void run_place(const PlaceArguments& arguments) {
  const auto corpus = Corpus::open(arguments.directory);
  const SplitRecord& train = corpus->manifest().train;
  SampleSequence sequence(
      {{corpus->digest(), arguments.directory, name_of(Split::train), train.tokens(), train.documents(), {}}},
      {.stride = arguments.context, .seed = arguments.seed});
  const SampleSequence::Place place = sequence.at(arguments.sample);
  uint64_t token = 0;
  sequence.order(0).runs(place.position, [&](const BlockRun& run) { token = run.block * arguments.context; });
  uint64_t inside = token;
  auto shard = train.shards.begin();
  for (; inside >= shard->tokens; ++shard) inside -= shard->tokens;
  fmt::print("sample {} (context {}, seed {}): token {} of {} in epoch {}, token {} of {}\n",
             thousands(arguments.sample), arguments.context, arguments.seed, thousands(token),
             thousands(train.tokens()), place.position.epoch, thousands(inside), shard->file);
  if (!arguments.text) return;
  CorpusTokens reader({corpus}, Split::train, 0);
  std::vector<uint32_t> tokens(arguments.context);
  reader.read(token, arguments.context, tokens.data());
  fmt::print("{}\n", tame(corpus->tokenizer().decode(tokens)));
}

void add_place(CLI::App& corpus, std::function<void()>& action) {
  const auto arguments = std::make_shared<PlaceArguments>();
  CLI::App* verb =
      corpus.add_subcommand("place", "Tell which text a training sample of a run is (data.packing stream)");
  verb->add_option("directory", arguments->directory, "a corpus directory, the only one of the run")->required();
  verb->add_option("--sample", arguments->sample, "step * train.global_batch + place in the batch")->required();
  verb->add_option("--context", arguments->context, "model.context")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 31));
  verb->add_option("--seed", arguments->seed, "train.seed")->capture_default_str();
  verb->add_flag("--text", arguments->text, "print the text, too");
  verb->footer("Example:\n  capstan corpus place corpus --sample 123456 --context 2048 --text");
  verb->callback([arguments, &action] { action = [arguments] { run_place(*arguments); }; });
}

void add_reader(CLI::App& corpus, std::function<void()>& action, const char* name, const char* what,
                void (*run)(const std::string&)) {
  const auto directory = std::make_shared<std::string>();
  CLI::App* verb = corpus.add_subcommand(name, what);
  verb->add_option("directory", *directory, "a corpus directory")->required();
  verb->callback([directory, run, &action] { action = [directory, run] { run(*directory); }; });
}

}  // namespace

void add_corpus_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* corpus = app.add_subcommand("corpus", "Build, describe or verify a corpus of HDF5 shards");
  corpus->require_subcommand(1);
  add_corpus_build(*corpus, action);
  add_reader(*corpus, action, "info", "Show what a corpus holds, and a sample of it", run_info);
  add_reader(*corpus, action, "verify", "Read all of a corpus and check every hash", run_verify);
  add_text(*corpus, action);
  add_place(*corpus, action);
}

}  // namespace capstan
