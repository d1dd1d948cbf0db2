#include "launch/corpus_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>

#include "core/error.h"
#include "io/corpus.h"
#include "io/corpus_builder.h"
#include "io/corpus_tokens.h"

namespace capstan {
namespace {

std::string thousands(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string counted(uint64_t number, const char* thing) {
  return fmt::format("{} {}{}", thousands(number), thing, number == 1 ? "" : "s");
}

std::string duration(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  return whole < 3600 ? fmt::format("{} min {:02} s", whole / 60, whole % 60)
                      : fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

/// One line on a terminal's stderr, rewritten a few times a second; nothing when stderr goes elsewhere.
class ProgressLine {
 public:
  void show(const std::string& what, uint64_t done, uint64_t total) {
    const Clock::time_point now = Clock::now();
    if (!visible_ || (shown_ && now - last_ < std::chrono::milliseconds(200))) return;
    last_ = now;
    shown_ = true;
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
    std::string line =
        fmt::format("{}: {:.0f}%, {:.1f} MB/s", what,
                    total ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 100.0, rate / 1e6);
    if (rate > 0 && total > done) line += ", " + duration(static_cast<double>(total - done) / rate) + " left";
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
  }
  ~ProgressLine() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool visible_ = isatty(STDERR_FILENO) == 1;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point last_{};
  bool shown_ = false;
};

void print_splits(const CorpusManifest& manifest) {
  fmt::print("  {:<11} {:>7} {:>16} {:>12} {:>16} {:>16}\n", "split", "shards", "tokens", "documents", "bytes of text",
             "bytes on disk");
  for (const Split which : {Split::train, Split::validation}) {
    const SplitRecord& split = manifest.split(which);
    uint64_t on_disk = 0;
    for (const ShardRecord& shard : split.shards) on_disk += shard.file_size;
    fmt::print("  {:<11} {:>7} {:>16} {:>12} {:>16} {:>16}\n", name_of(which), split.shards.size(),
               thousands(split.tokens()), thousands(split.documents()), thousands(split.bytes()), thousands(on_disk));
  }
}

struct BuildArguments {
  CorpusBuildOptions options;
  std::string tokenizer = "bytes";
};

void run_build(const BuildArguments& arguments) {
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_from_name(arguments.tokenizer);
  CorpusBuildResult result;
  {
    ProgressLine line;
    result = build_corpus(arguments.options, *tokenizer, [&](const CorpusBuildProgress& progress) {
      line.show(fmt::format("{}: {} documents, {} tokens", progress.stage, thousands(progress.documents),
                            thousands(progress.tokens)),
                progress.input_bytes, progress.input_total);
    });
  }
  fmt::print("corpus {}: tokenizer {}, vocabulary {}\n", arguments.options.out.string(), tokenizer->name(),
             thousands(tokenizer->vocabulary()));
  print_splits(result.manifest);
  if (!result.split_by_document)
    fmt::print("  validation is the end of the text: there are fewer than 100 different documents\n");
  if (result.empty_documents) fmt::print("  left out: {} without text\n", counted(result.empty_documents, "document"));
  if (!result.skipped.empty())
    fmt::print("  skipped: {} that {} empty or not text, such as {}\n", counted(result.skipped.size(), "file"),
               result.skipped.size() == 1 ? "is" : "are", result.skipped.front().string());
}

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

void run_info(const std::string& directory) {
  const auto corpus = Corpus::open(directory);
  const CorpusManifest& manifest = corpus->manifest();
  fmt::print("corpus {}: tokenizer {} ({}), vocabulary {}, {} bytes a token\n", directory, manifest.tokenizer_name,
             manifest.tokenizer_hash, thousands(manifest.vocabulary), manifest.token_width());
  print_splits(manifest);
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

void add_build(CLI::App& corpus, std::function<void()>& action) {
  const auto arguments = std::make_shared<BuildArguments>();
  CorpusBuildOptions& options = arguments->options;
  CLI::App* verb = corpus.add_subcommand("build", "Turn text into HDF5 shards and a manifest");
  verb->add_option("--out", options.out, "directory of the corpus: new or empty")->required();
  verb->add_option("--tokenizer", arguments->tokenizer, "bytes, or a tokenizer file")->capture_default_str();
  verb->add_option("inputs", options.inputs,
                   "text files, directories (all text in them) and JSONL files; plain, .gz or .zst")
      ->required();
  verb->add_option("--field", options.documents.field, "field of a JSONL object that holds the text")
      ->capture_default_str();
  const std::map<std::string, DocumentSplit> splits{{"none", DocumentSplit::none}, {"blank", DocumentSplit::blank}};
  verb->add_option("--split-documents", options.documents.split,
                   "where a text file's documents end: none (a file is one document) or blank (at blank lines)")
      ->transform(CLI::CheckedTransformer(splits));
  verb->add_option(
      "--validation", options.validation,
      "share to hold out for validation, at most 0.5 [0.01 of the documents; a tenth of the text when there "
      "are fewer than 100]");
  verb->add_option("--shard-tokens", options.shard_tokens,
                   "a shard ends with the document that reaches this many tokens")
      ->capture_default_str();
  verb->footer(
      "Examples:\n"
      "  capstan corpus build --out corpus book.txt\n"
      "  capstan corpus build --out corpus --field content pages.jsonl.zst more-text/");
  verb->callback([arguments, &action] { action = [arguments] { run_build(*arguments); }; });
}

struct TextArguments {
  std::string directory, split = "validation";
};

/// The whole split as text, a document after the other, in pieces that end with a token.
void run_text(const TextArguments& arguments) {
  constexpr uint64_t kPiece = 1 << 16, kCache = 1 << 20;
  const std::shared_ptr<const Corpus> corpus = Corpus::open(arguments.directory);
  CorpusTokens tokens({corpus}, arguments.split == "train" ? Split::train : Split::validation, kCache);
  std::vector<uint32_t> piece;
  for (uint64_t first = 0; first < tokens.size(); first += kPiece) {
    piece.resize(std::min(kPiece, tokens.size() - first));
    tokens.read(first, piece.size(), piece.data());
    const std::string text = corpus->tokenizer().decode(piece);
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size())
      throw Error::make(ExitCode::io_error, "cannot write the text to standard output");
  }
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
  add_build(*corpus, action);
  add_reader(*corpus, action, "info", "Show what a corpus holds, and a sample of it", run_info);
  add_reader(*corpus, action, "verify", "Read all of a corpus and check every hash", run_verify);
  add_text(*corpus, action);
}

}  // namespace capstan
