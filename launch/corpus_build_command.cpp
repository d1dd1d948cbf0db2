#include "launch/corpus_build_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <thread>

#include "core/error.h"
#include "io/corpus/builder.h"
#include "io/corpus/tokenizer_training.h"
#include "launch/console.h"
#include "launch/corpus_texts.h"

namespace capstan {
namespace {

struct BuildArguments {
  CorpusBuildOptions options;
  std::string tokenizer = "bytes", end_of_document;
  TokenizerTraining training;
};

std::shared_ptr<const Tokenizer> choose_tokenizer(BuildArguments& arguments, const CorpusBuildObserver& observer) {
  if (arguments.training.vocabulary > 0) return train_tokenizer(arguments.options, arguments.training, observer);
  return tokenizer_from_name(arguments.tokenizer, arguments.end_of_document);
}

void print_left_out(const CorpusBuildResult& result) {
  if (result.empty_documents) fmt::print("  left out: {} without text\n", counted(result.empty_documents, "document"));
  if (result.duplicates)
    fmt::print("  left out: {} ({} bytes) whose text had come before\n", counted(result.duplicates, "duplicate"),
               thousands(result.duplicate_bytes));
  if (result.bad_lines) fmt::print("  left out: {} without a document, such as\n", counted(result.bad_lines, "line"));
  for (const std::string& line : result.first_bad_lines) fmt::print("    {}\n", line);
  if (!result.skipped.empty())
    fmt::print("  skipped: {} that {} empty or not text, such as {}\n", counted(result.skipped.size(), "file"),
               result.skipped.size() == 1 ? "is" : "are", result.skipped.front().string());
}

void print_result(const std::string& out, const Tokenizer& tokenizer, const CorpusBuildResult& result) {
  if (!result.started_anew.empty())
    fmt::print("an unfinished build of something else was here and was begun anew: {}\n", result.started_anew);
  if (result.reused_shards)
    fmt::print("went on from {} that an earlier run had finished\n", counted(result.reused_shards, "shard"));
  fmt::print("corpus {}: tokenizer {}, vocabulary {}\n", out, tokenizer.name(), thousands(tokenizer.vocabulary()));
  print_splits(result.manifest);
  if (!result.split_by_document)
    fmt::print("  validation is the end of the text: there are fewer than 100 different documents\n");
  print_left_out(result);
  if (result.forced_cuts)
    fmt::print("  {} made where the tokenizer allows none: documents without a line end in 16 MiB\n",
               counted(result.forced_cuts, "cut"));
}

void run_build(BuildArguments& arguments) {
  std::shared_ptr<const Tokenizer> tokenizer;
  CorpusBuildResult result;
  {
    ProgressLine line;
    const CorpusBuildObserver observer = [&line](const CorpusBuildProgress& progress) {
      const std::string more =
          progress.documents == 0
              ? ""
              : fmt::format(", {}, {}", counted(progress.documents, "document"), counted(progress.tokens, "token"));
      line.show(progress.stage, progress.input_bytes, progress.input_total, more);
    };
    tokenizer = choose_tokenizer(arguments, observer);
    result = build_corpus(arguments.options, *tokenizer, observer);
  }
  print_result(arguments.options.out.string(), *tokenizer, result);
}

void add_input_options(CLI::App& verb, BuildArguments& arguments) {
  CorpusBuildOptions& options = arguments.options;
  verb.add_option("--out", options.out, "directory of the corpus: new or empty, or of a build that did not end")
      ->required();
  verb.add_option("inputs", options.inputs,
                  "text files, directories (all text in them), JSONL files, plain, .gz or .zst; PREFIX.bin of a "
                  "Megatron-LM dataset; - for standard input")
      ->required();
  const std::map<std::string, InputFormat> formats{
      {"text", InputFormat::text}, {"jsonl", InputFormat::jsonl}, {"megatron", InputFormat::megatron}};
  verb.add_option_function<std::string>(
          "--format", [&options, formats](const std::string& name) { options.documents.format = formats.at(name); },
          "what the inputs hold: text, jsonl or megatron [by their names]")
      ->check(CLI::IsMember({"text", "jsonl", "megatron"}));
  verb.add_option("--field", options.documents.field,
                  "field of a JSONL object that holds the text; a.b is the field b of the object a")
      ->capture_default_str();
  verb.add_option("--keep-metadata", options.documents.metadata,
                  "fields of a JSONL object to keep for every document, beside the shards")
      ->delimiter(',')
      ->allow_extra_args(false);
  const std::map<std::string, DocumentSplit> splits{{"none", DocumentSplit::none}, {"blank", DocumentSplit::blank}};
  verb.add_option("--split-documents", options.documents.split,
                  "where a text file's documents end: none (a file is one document) or blank (at blank lines)")
      ->transform(CLI::CheckedTransformer(splits));
  verb.add_option("--skip-bad", options.skip_bad, "leave out up to so many lines of JSONL that hold no document")
      ->capture_default_str();
  verb.add_flag("--drop-duplicates", options.drop_duplicates,
                "keep the first of all documents of equal text; takes 24 bytes of memory a document");
}

void add_output_options(CLI::App& verb, BuildArguments& arguments) {
  CorpusBuildOptions& options = arguments.options;
  verb.add_option(
      "--validation", options.validation,
      "share to hold out for validation, at most 0.5 [0.01 of the documents; a tenth of the text when there "
      "are fewer than 100]");
  verb.add_option("--shard-tokens", options.shard_tokens,
                  "a shard ends with the document that reaches this many tokens")
      ->capture_default_str();
  verb.add_option("--threads", options.threads, "0: all processors; the result does not depend on it")
      ->capture_default_str();
}

void add_tokenizer_options(CLI::App& verb, BuildArguments& arguments) {
  CLI::Option* named = verb.add_option("--tokenizer", arguments.tokenizer,
                                       "bytes, or a tokenizer file: tokenizer.json, a SentencePiece model, tiktoken "
                                       "ranks, vocab.json beside merges.txt, vocab.txt")
                           ->capture_default_str();
  verb.add_option("--end-of-document", arguments.end_of_document,
                  "name of the token that ends documents [what the tokenizer's files say]");
  CLI::Option* train = verb.add_option("--train-tokenizer", arguments.training.vocabulary,
                                       "train a byte-level BPE of so many tokens on the inputs, and use it")
                           ->excludes(named)
                           ->check(CLI::Range(257, 1 << 24));
  verb.add_option("--pattern", arguments.training.expression,
                  "regular expression that cuts text into words before training [GPT-2's]")
      ->needs(train);
  verb.add_option("--special", arguments.training.special_tokens,
                  "special tokens beside <|endoftext|>, such as --special '<|im_start|>,<|im_end|>'")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->needs(train);
  verb.add_option("--tokenizer-sample", arguments.training.sample_bytes,
                  "bytes of text to train on: the beginning of each input, by its size")
      ->capture_default_str()
      ->needs(train);
}

}  // namespace

void add_corpus_build(CLI::App& corpus, std::function<void()>& action) {
  const auto arguments = std::make_shared<BuildArguments>();
  CLI::App* verb = corpus.add_subcommand("build", "Turn text into HDF5 shards and a manifest");
  add_input_options(*verb, *arguments);
  add_tokenizer_options(*verb, *arguments);
  add_output_options(*verb, *arguments);
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  verb->footer(fmt::format(
      "A build that was killed goes on from its finished shards when the same command is run again.\n"
      "Memory: at most {} with the {} threads of this machine, whatever the size of the inputs, plus the tokenizer's\n"
      "caches, 24 bytes a document with --drop-duplicates, and 6 times the longest line of JSONL (64 MiB at most).\n\n"
      "Examples:\n"
      "  capstan corpus build --out corpus book.txt\n"
      "  capstan corpus build --out corpus --field content pages.jsonl.zst more-text/\n"
      "  capstan corpus build --out corpus --train-tokenizer 32768 --drop-duplicates --keep-metadata url "
      "pages/*.jsonl\n"
      "  zcat crawl.gz | capstan corpus build --out corpus --tokenizer tokenizer.json --format jsonl -\n"
      "  capstan corpus build --out corpus --format megatron --tokenizer tokenizer.json PREFIX.bin",
      bytes_text(static_cast<double>(build_memory(threads))), threads));
  verb->callback([arguments, &action] { action = [arguments] { run_build(*arguments); }; });
}

}  // namespace capstan
