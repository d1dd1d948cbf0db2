#include "launch/tokenizer_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "io/corpus/document_reader.h"
#include "io/file_system.h"
#include "io/tokenizer/bpe_trainer.h"
#include "io/tokenizer/splitter.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/trained_tokenizer.h"
#include "launch/corpus_texts.h"

namespace capstan {
namespace tokenizer_verbs {  // files of verbs are compiled as one
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kLargestText = uint64_t{1} << 36;

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

int threads_or_all(int threads) {
  return threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

/// A file, or standard input for "" and "-".
std::string read_input(const std::string& path) {
  if (!path.empty() && path != "-") return read_whole_file(path, kLargestText);
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, stdin)) text.append(buffer, count);
  if (std::ferror(stdin)) throw Error::make(ExitCode::io_error, "cannot read standard input");
  return text;
}

void write_output(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw Error::make(ExitCode::io_error, "cannot write to standard output");
}

// ---- train ----------------------------------------------------------------------------------------------------------

struct TrainArguments {
  std::vector<fs::path> inputs;
  DocumentOptions documents;
  fs::path out;
  std::string pattern = "gpt2", name;
  std::vector<std::string> special;
  BpeTrainingOptions training;  // whose vocabulary counts special tokens as well, here
};

void add_inputs(const TrainArguments& arguments, BpeTrainer& trainer, ProgressLine& line) {
  const InputList inputs = list_inputs(arguments.inputs, arguments.documents);
  const uint64_t total = inputs.bytes();
  uint64_t before = 0, text = 0;
  size_t file = 0;
  DocumentReading reading;
  reading.may_cut = [](std::string_view piece, size_t at) { return piece[at - 1] == '\n'; };
  DocumentReader reader(inputs.files, arguments.documents, reading);
  for (BlockDocument document; reader.next(document);) {
    for (; file < reader.file(); ++file) before += inputs.files[file].size;
    trainer.add(document.text);
    text += document.text.size();
    line.show("counting words", before, total, fmt::format(", {} bytes of text", thousands(text)));
  }
}

/// Ids that special tokens will take, the end of document among them.
uint32_t special_tokens_of(const TrainArguments& arguments) {
  const auto& special = arguments.special;
  const bool has_end = std::find(special.begin(), special.end(), "<|endoftext|>") != special.end();
  return static_cast<uint32_t>(special.size()) + (has_end ? 0 : 1);
}

void run_train(const TrainArguments& arguments) {
  constexpr uint32_t kBytes = 256;
  const uint32_t special = special_tokens_of(arguments), vocabulary = arguments.training.vocabulary;
  if (vocabulary < kBytes + special)
    throw Error::make(ExitCode::usage, "--vocabulary: wanted at least {} (the {} bytes and {}), got {}",
                      kBytes + special, kBytes, counted(special, "special token"), vocabulary);
  const std::string_view named = named_expression(arguments.pattern);
  BpeTrainingOptions options = arguments.training;
  options.vocabulary -= special;
  options.expression = named.empty() ? arguments.pattern : std::string(named);
  const Clock::time_point begin = Clock::now();
  double counting = 0;
  uint64_t words = 0;
  BpeSpec spec;
  {
    ProgressLine line;
    BpeTrainer trainer(options);
    add_inputs(arguments, trainer, line);
    words = trainer.distinct_words();
    counting = seconds_since(begin);
    spec = trainer.train([&](uint32_t done, uint32_t total) {
      line.show(fmt::format("merging: {} of {} pieces", thousands(done), thousands(total)), 0, 0);
    });
  }
  const std::string name = arguments.name.empty() ? fmt::format("bpe-{}", vocabulary) : arguments.name;
  const auto tokenizer = make_byte_level_tokenizer(
      std::move(spec), arguments.pattern == "gpt2" ? std::string() : options.expression, arguments.special, name);
  const fs::path out = fs::is_directory(arguments.out) ? arguments.out / "tokenizer.json" : arguments.out;
  write_file_atomically(out, tokenizer->description());
  fmt::print("{}: tokenizer {}, vocabulary {}, from {} ({:.2f} s for counting, {:.2f} s for merging)\n", out.string(),
             name, thousands(tokenizer->vocabulary()), counted(words, "distinct word"), counting,
             seconds_since(begin) - counting);
  if (tokenizer->vocabulary() < vocabulary)
    fmt::print("  the text has no more pairs that occur {} times: {} fewer than asked for\n", options.least_count,
               thousands(vocabulary - tokenizer->vocabulary()));
}

void add_train(CLI::App& tokenizer, std::function<void()>& action) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* verb = tokenizer.add_subcommand("train", "Train a byte-level BPE on text");
  verb->add_option("--vocabulary", arguments->training.vocabulary, "bytes, merges and special tokens together")
      ->required();
  verb->add_option("--out", arguments->out, "file to write, or a directory for tokenizer.json")->required();
  verb->add_option("inputs", arguments->inputs,
                   "text files, directories (all text in them) and JSONL files, plain, .gz or .zst")
      ->required();
  verb->add_option("--pattern", arguments->pattern,
                   "what cuts text into words: gpt2, cl100k, llama3, o200k, qwen2, qwen35, tekken, or a regular "
                   "expression")
      ->capture_default_str();
  verb->add_option("--special", arguments->special,
                   "special tokens beside <|endoftext|>, such as --special '<|im_start|>,<|im_end|>'")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb->add_option("--name", arguments->name, "of the tokenizer [bpe-VOCABULARY]");
  verb->add_option("--least-count", arguments->training.least_count, "pairs seen less often are not merged")
      ->capture_default_str();
  verb->add_option("--longest-piece", arguments->training.longest_piece, "bytes; 0: no limit")->capture_default_str();
  verb->add_option("--field", arguments->documents.field, "field of a JSONL object that holds the text")
      ->capture_default_str();
  verb->add_option("--threads", arguments->training.threads, "0: all processors; the result does not depend on it")
      ->capture_default_str();
  verb->footer(
      "The same text gives the same tokenizer, whatever the order of the inputs. Memory: the distinct words.\n"
      "Hugging Face tokenizers read the file.\n\n"
      "Examples:\n"
      "  capstan tokenizer train --vocabulary 32768 --out tokenizer.json books/ pages.jsonl.zst\n"
      "  capstan tokenizer train --vocabulary 100000 --pattern cl100k --special '<|im_start|>,<|im_end|>' "
      "--out . text/");
  verb->callback([arguments, &action] { action = [arguments] { run_train(*arguments); }; });
}

// ---- encode, decode -------------------------------------------------------------------------------------------------

struct UseArguments {
  std::string tokenizer, end_of_document, input;
  fs::path out;
  bool special = false, count_only = false;
  int threads = 1;
};

/// Cuts of about equal size where they change nothing: 0, ..., text.size().
std::vector<size_t> cuts_of(const Tokenizer& tokenizer, std::string_view text, size_t parts) {
  std::vector<size_t> cuts{0};
  for (size_t part = 1; part < parts; ++part) {
    size_t at = std::max(text.size() / parts * part, cuts.back() + 1);
    while (at < text.size() && !tokenizer.may_cut(text, at)) ++at;
    if (at >= text.size()) break;
    cuts.push_back(at);
  }
  cuts.push_back(text.size());
  return cuts;
}

std::vector<std::vector<uint32_t>> encode_parts(const Tokenizer& tokenizer, std::string_view text,
                                                const UseArguments& arguments) {
  constexpr size_t kPartsAThread = 8;
  const int threads = threads_or_all(arguments.threads);
  const auto cuts = cuts_of(tokenizer, text, threads == 1 ? 1 : kPartsAThread * static_cast<size_t>(threads));
  std::vector<std::vector<uint32_t>> tokens(cuts.size() - 1);
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    try {
      const auto encoder = tokenizer.encoder({.special_tokens = arguments.special});
      for (size_t part = next++; part < tokens.size(); part = next++)
        encoder->encode(text.substr(cuts[part], cuts[part + 1] - cuts[part]), part == 0, tokens[part]);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
  return tokens;
}

void run_encode(const UseArguments& arguments) {
  const auto tokenizer = tokenizer_from_name(arguments.tokenizer, arguments.end_of_document);
  const std::string text = read_input(arguments.input);
  const Clock::time_point begin = Clock::now();
  const double processor_begin = processor_seconds();
  const auto parts = encode_parts(*tokenizer, text, arguments);
  const double seconds = seconds_since(begin), processor = processor_seconds() - processor_begin;
  uint64_t count = 0;
  for (const auto& tokens : parts) count += tokens.size();
  if (arguments.count_only) {
    fmt::print("{} bytes, {} tokens, {:.3f} bytes a token, {:.3f} s ({:.3f} s of processor time), {:.1f} MB/s, {}\n",
               text.size(), count, count ? static_cast<double>(text.size()) / static_cast<double>(count) : 0.0, seconds,
               processor, seconds > 0 ? static_cast<double>(text.size()) / seconds / 1e6 : 0.0,
               counted(static_cast<uint64_t>(threads_or_all(arguments.threads)), "thread"));
    return;
  }
  fmt::memory_buffer line;
  bool first = true;
  for (const auto& tokens : parts) {
    for (const uint32_t token : tokens) {
      if (!first) line.push_back(' ');
      first = false;
      fmt::format_to(std::back_inserter(line), "{}", token);
    }
    write_output({line.data(), line.size()});
    line.clear();
  }
  write_output("\n");
}

void run_decode(const UseArguments& arguments) {
  constexpr size_t kFlush = 1 << 16;
  const auto tokenizer = tokenizer_from_name(arguments.tokenizer, arguments.end_of_document);
  const std::string input = read_input(arguments.input);
  const auto decoder = tokenizer->decoder();
  std::string text;
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  uint64_t number = 0;
  for (const char *at = input.data(), *end = at + input.size(); at < end;) {
    if (is_space(*at)) {
      ++at;
      continue;
    }
    uint32_t token = 0;
    const auto [stop, problem] = std::from_chars(at, end, token);
    if (problem != std::errc() || (stop < end && !is_space(*stop)))
      throw Error::make(ExitCode::bad_data, "{}: wanted token ids with spaces between them, got \"{}\" after {}",
                        arguments.input.empty() ? "standard input" : arguments.input,
                        std::string_view(at, static_cast<size_t>(std::min<std::ptrdiff_t>(end - at, 20))),
                        counted(number, "id"));
    decoder->push(token, text);
    ++number;
    at = stop;
    if (text.size() < kFlush) continue;
    write_output(text);
    text.clear();
  }
  decoder->finish(text);
  write_output(text);
}

void run_info(const UseArguments& arguments) {
  const auto tokenizer = tokenizer_from_name(arguments.tokenizer, arguments.end_of_document);
  const uint32_t end = tokenizer->end_of_document(), size = tokenizer->vocabulary();
  uint64_t used = 0, bytes = 0;
  uint32_t longest = 0;
  for (uint32_t token = 0; token < size; ++token) {
    const uint32_t length = tokenizer->text_bytes(token);
    used += !tokenizer->token_name(token).empty();
    bytes += length;
    if (length > tokenizer->text_bytes(longest)) longest = token;
  }
  fmt::print("tokenizer {}: vocabulary {} ({} in use)\n", tokenizer->name(), thousands(size), thousands(used));
  fmt::print("  end of document: {} {}\n", end, tokenizer->token_name(end));
  fmt::print("  a token stands for {:.2f} bytes on average over the vocabulary, {} at most (id {})\n",
             used ? static_cast<double>(bytes) / static_cast<double>(used) : 0.0,
             thousands(tokenizer->text_bytes(longest)), longest);
  fmt::print("  hash: {}\n", tokenizer->hash());
}

void run_convert(const UseArguments& arguments) {
  const auto tokenizer = tokenizer_from_name(arguments.tokenizer, arguments.end_of_document);
  const fs::path out = fs::is_directory(arguments.out) ? arguments.out / "tokenizer.json" : arguments.out;
  write_file_atomically(out, tokenizer->description());
  fmt::print("{}: tokenizer {}, vocabulary {}\n", out.string(), tokenizer->name(), thousands(tokenizer->vocabulary()));
}

CLI::App* add_use(CLI::App& tokenizer, std::function<void()>& action, const char* name, const char* what,
                  const std::shared_ptr<UseArguments>& arguments, void (*run)(const UseArguments&)) {
  CLI::App* verb = tokenizer.add_subcommand(name, what);
  verb->add_option("--end-of-document", arguments->end_of_document,
                   "name of the token that ends documents [what the tokenizer's files say]");
  verb->callback([arguments, run, &action] { action = [arguments, run] { run(*arguments); }; });
  return verb;
}

void add_encode(CLI::App& tokenizer, std::function<void()>& action) {
  const auto arguments = std::make_shared<UseArguments>();
  CLI::App* verb = add_use(tokenizer, action, "encode", "Print the token ids of a text", arguments, run_encode);
  verb->add_option("--tokenizer", arguments->tokenizer, "bytes, a tokenizer file or a directory that holds one")
      ->required();
  verb->add_option("input", arguments->input, "a text file [standard input]");
  verb->add_flag("--special", arguments->special, "read the names of special tokens in the text as those tokens");
  verb->add_flag("--count-only", arguments->count_only, "print how many, and how fast, instead");
  verb->add_option("--threads", arguments->threads, "0: all processors; the ids do not depend on it")
      ->capture_default_str();
  verb->footer(
      "Examples:\n"
      "  echo 'Hello there' | capstan tokenizer encode --tokenizer tokenizer.json\n"
      "  capstan tokenizer encode --tokenizer tokenizer.json --count-only --threads 0 book.txt");
}

void add_decode(CLI::App& tokenizer, std::function<void()>& action) {
  const auto arguments = std::make_shared<UseArguments>();
  CLI::App* verb = add_use(tokenizer, action, "decode", "Print the text of token ids", arguments, run_decode);
  verb->add_option("--tokenizer", arguments->tokenizer, "bytes, a tokenizer file or a directory that holds one")
      ->required();
  verb->add_option("input", arguments->input, "a file of ids with spaces between them [standard input]");
  verb->footer("Example:\n  echo 15496 612 | capstan tokenizer decode --tokenizer tokenizer.json");
}

void add_info(CLI::App& tokenizer, std::function<void()>& action) {
  const auto arguments = std::make_shared<UseArguments>();
  CLI::App* verb = add_use(tokenizer, action, "info", "Show what a tokenizer is", arguments, run_info);
  verb->add_option("tokenizer", arguments->tokenizer, "bytes, a tokenizer file or a directory that holds one")
      ->required();
}

void add_convert(CLI::App& tokenizer, std::function<void()>& action) {
  const auto arguments = std::make_shared<UseArguments>();
  CLI::App* verb = add_use(tokenizer, action, "convert", "Write a tokenizer as tokenizer.json", arguments, run_convert);
  verb->add_option(
          "tokenizer", arguments->tokenizer,
          "a tokenizer.json, SentencePiece model, tiktoken rank file, tekken.json, vocab.json or vocab.txt, or "
          "a directory that holds one")
      ->required();
  verb->add_option("--out", arguments->out, "file to write, or a directory for tokenizer.json")->required();
  verb->footer("Example:\n  capstan tokenizer convert cl100k_base.tiktoken --out tokenizer.json");
}

}  // namespace
}  // namespace tokenizer_verbs

void add_tokenizer_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Train tokenizers, and turn text into token ids and back");
  tokenizer->require_subcommand(1);
  tokenizer_verbs::add_train(*tokenizer, action);
  tokenizer_verbs::add_encode(*tokenizer, action);
  tokenizer_verbs::add_decode(*tokenizer, action);
  tokenizer_verbs::add_info(*tokenizer, action);
  tokenizer_verbs::add_convert(*tokenizer, action);
}

}  // namespace capstan
