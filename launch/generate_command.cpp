#include "launch/generate_command.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>

#include "core/error.h"
#include "launch/command_line.h"
#include "launch/finished_run.h"
#include "launch/program_state.h"
#include "launch/sampler.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

struct GenerateArguments {
  std::string run, prompt;
  int64_t tokens = 300, step = -1;
  int threads = 0;
  bool timing = false;
  SamplerOptions sampler;
};

/// Text goes out as it is made, but never half a UTF-8 character.
class TextStream {
 public:
  void add(const std::string& bytes) {
    held_ += bytes;
    const size_t ready = complete();
    std::fwrite(held_.data(), 1, ready, stdout);
    held_.erase(0, ready);
    require_output();
  }
  ~TextStream() { std::fwrite(held_.data(), 1, held_.size(), stdout); }

 private:
  size_t complete() const {
    for (size_t back = 1; back <= 3 && back <= held_.size(); ++back) {
      const unsigned char c = static_cast<unsigned char>(held_[held_.size() - back]);
      if ((c & 0xC0) == 0x80) continue;  // a continuation byte: look further left for its lead
      const size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
      return length > back ? held_.size() - back : held_.size();
    }
    return held_.size();
  }
  std::string held_;
};

/// The text of tokens after a prompt's. They are decoded as a whole: what a token says may depend on those before it
/// (SentencePiece drops the space that a text begins with, GPT-1's decoder learns where a word ended).
class TextAfter {
 public:
  TextAfter(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt) : decoder_(tokenizer.decoder()) {
    const std::vector<uint32_t> ids(prompt.begin(), prompt.end());
    std::string certain;
    for (const uint32_t id : ids) decoder_->push(id, certain);
    const size_t whole = tokenizer.decode(ids).size();
    of_prompt_ = whole - std::min(whole, certain.size());
  }

  std::string next(int32_t token) {
    std::string text;
    decoder_->push(static_cast<uint32_t>(token), text);
    return without_prompt(std::move(text));
  }
  std::string rest() {
    std::string text;
    decoder_->finish(text);
    return without_prompt(std::move(text));
  }

 private:
  std::string without_prompt(std::string text) {
    const size_t skipped = std::min(of_prompt_, text.size());
    of_prompt_ -= skipped;
    return text.substr(skipped);
  }
  std::unique_ptr<TokenDecoder> decoder_;
  size_t of_prompt_ = 0;  ///< bytes of the prompt that the decoder still holds back
};

/// Tokens of the whole text and the cache that holds their tail.
class Continuation {
 public:
  Continuation(GenerationProgram& program, std::vector<int32_t> tokens)
      : program_(program), tokens_(std::move(tokens)) {
    refill();
  }

  std::vector<float> next_logits() {
    if (program_.length() >= program_.context()) refill();
    return program_.decode(tokens_.back());
  }
  void push(int32_t token) { tokens_.push_back(token); }

 private:
  /// Puts all but the last token into the cache; of a long text only the last half context, so that there is room.
  void refill() {
    const int64_t held = static_cast<int64_t>(tokens_.size()) - 1;
    const int64_t kept = held < program_.context() ? held : program_.context() / 2;
    program_.forget();
    program_.prefill(std::vector<int32_t>(tokens_.end() - 1 - kept, tokens_.end() - 1));
  }

  GenerationProgram& program_;
  std::vector<int32_t> tokens_;
};

std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> tokens;
  for (const uint32_t token : tokenizer.encode(prompt)) tokens.push_back(static_cast<int32_t>(token));
  if (tokens.empty()) tokens.push_back(static_cast<int32_t>(tokenizer.end_of_document()));  // a document begins
  return tokens;
}

/// Ids below the vocabulary that the tokenizer has no token for; the rows behind it are cut off.
std::vector<size_t> ids_without_token(const Tokenizer& tokenizer) {
  std::vector<size_t> absent;
  for (uint32_t id = 0; id < tokenizer.vocabulary(); ++id)
    if (tokenizer.token_name(id).empty()) absent.push_back(id);
  return absent;
}

void generate(const GenerateArguments& arguments) {
  FinishedRun run = open_run(arguments.run, arguments.step);
  for (const std::string& complaint : run.complaints) std::fprintf(stderr, "warning: %s\n", complaint.c_str());
  const std::shared_ptr<const Tokenizer> tokenizer = tokenizer_of(run);
  const std::unique_ptr<Communicator> self = self_communicator();
  TrainConfig train = for_reading(run.config.train, gpus_on_all(*self));
  train.threads = arguments.threads;
  omp_set_num_threads(threads_for(train, *self));
  const RankDevice device(train, *self);
  const Mesh mesh;
  const RankGroups groups(mesh, *self, device);
  GenerationProgram program(mesh, groups.device(), run.config.model, precision_of(train));
  program.allocate();
  load_parameters(program.program(), program.dtype(), run.checkpoint);

  const std::vector<int32_t> prompt = prompt_tokens(*tokenizer, arguments.prompt);
  Continuation continuation(program, prompt);
  TextAfter text(*tokenizer, prompt);
  const std::vector<size_t> absent = ids_without_token(*tokenizer);
  TextStream out;
  out.add(arguments.prompt);
  for (int64_t i = 0; i < arguments.tokens; ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<float> logits = continuation.next_logits();
    logits.resize(tokenizer->vocabulary());
    for (const size_t id : absent) logits[id] = -std::numeric_limits<float>::infinity();
    const int32_t token = sample_token(logits, arguments.sampler, static_cast<uint64_t>(i));
    if (token == static_cast<int32_t>(tokenizer->end_of_document())) break;
    out.add(text.next(token));
    continuation.push(token);
    if (arguments.timing)
      std::fprintf(stderr, "token %ld %.6f s\n", static_cast<long>(i),
                   std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  out.add(text.rest() + "\n");
}

}  // namespace

void add_generate_command(CLI::App& app, std::function<void()>& action) {
  CLI::App* verb = app.add_subcommand("generate", "continue a text with the model of a run");
  const auto arguments = std::make_shared<GenerateArguments>();
  verb->add_option("--run", arguments->run, "run directory")->required();
  verb->add_option("--prompt", arguments->prompt, "text to continue; without it a document begins");
  verb->add_option("--tokens", arguments->tokens, "most tokens to write; a document may end sooner")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  verb->add_option("--temperature", arguments->sampler.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  verb->add_option("--top-k", arguments->sampler.top_k, "draw among the k likeliest; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30));
  verb->add_option("--top-p", arguments->sampler.top_p, "draw among the likeliest that make up this share")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  verb->add_option("--seed", arguments->sampler.seed, "same seed, same text")->capture_default_str();
  verb->add_option("--step", arguments->step, "the checkpoint of this step; default: the newest");
  verb->add_option("--threads", arguments->threads, "0: all processors")->capture_default_str();
  verb->add_flag("--timing", arguments->timing, "seconds of each token on stderr");
  verb->footer(
      "Examples:\n"
      "  capstan generate --run runs/quickstart/run --prompt \"The \" --tokens 200\n"
      "  capstan generate --run runs/mine --temperature 0 --prompt \"In the beginning\"");
  verb->callback([arguments, &action] { action = [arguments] { generate(*arguments); }; });
}

}  // namespace capstan
