#include "io/corpus/tokenizer_training.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "io/corpus/build_journal.h"
#include "io/corpus/document_reader.h"
#include "io/corpus/split.h"
#include "io/json_events.h"
#include "io/tokenizer/bpe_trainer.h"
#include "io/tokenizer/trained_tokenizer.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kEndOfDocument = "<|endoftext|>";

/// Texts on their way to the trainer, which counts words on several threads.
class WordCounting {
 public:
  WordCounting(BpeTrainer& trainer, int threads) : trainer_(trainer), most_(2 * static_cast<size_t>(threads)) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { count(); });
  }
  ~WordCounting() { end(); }

  /// A text of its own: words of two texts never join.
  void add(std::string_view text) {
    gathered_.bytes.append(text);
    gathered_.ends.push_back(gathered_.bytes.size());
    if (gathered_.bytes.size() >= kBlockBytes) hand_over();
  }
  /// Waits until all is counted; throws what went wrong.
  void finish() {
    if (!gathered_.ends.empty()) hand_over();
    end();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Texts {
    std::string bytes;
    std::vector<size_t> ends;
  };

  void hand_over() {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return texts_.size() < most_ || error_; });
    texts_.push_back(std::move(gathered_));
    gathered_ = {};
    work_.notify_one();
  }
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void count() {
    for (;;) {
      Texts texts;
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [&] { return ended_ || !texts_.empty(); });
        if (texts_.empty()) return;
        texts = std::move(texts_.front());
        texts_.pop_front();
        room_.notify_one();
      }
      try {
        for (size_t i = 0, begin = 0; i < texts.ends.size(); begin = texts.ends[i++])
          trainer_.add(std::string_view(texts.bytes).substr(begin, texts.ends[i] - begin));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
        room_.notify_all();
      }
    }
  }

  BpeTrainer& trainer_;
  const size_t most_;
  std::mutex mutex_;
  std::condition_variable work_, room_;
  std::deque<Texts> texts_;
  Texts gathered_;
  bool ended_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

uint64_t weight_of(const InputFile& file) {
  return file.standard_input ? file.standard_input->prefix().size() : file.size;
}

/// Bytes of text to take from each input.
std::vector<uint64_t> budgets(const std::vector<InputFile>& files, uint64_t sample) {
  uint64_t total = 0;
  for (const InputFile& file : files) total += weight_of(file);
  std::vector<uint64_t> budget;
  for (const InputFile& file : files)
    budget.push_back(
        static_cast<uint64_t>(static_cast<unsigned __int128>(sample) * weight_of(file) / std::max<uint64_t>(total, 1)) +
        1);
  return budget;
}

class Training {
 public:
  Training(const CorpusBuildOptions& options, const TokenizerTraining& training, const InputList& inputs,
           const CorpusBuildObserver& progress)
      : options_(options), training_(training), inputs_(inputs), progress_(progress) {}

  std::unique_ptr<Tokenizer> run() {
    std::vector<std::string> special = training_.special_tokens;
    const bool has_end = std::find(special.begin(), special.end(), kEndOfDocument) != special.end();
    const size_t specials = special.size() + (has_end ? 0 : 1);
    if (training_.vocabulary < 256 + specials)
      throw Error::make(ExitCode::usage,
                        "--train-tokenizer: wanted at least {} (256 bytes and "
                        "{} special tokens), got {}",
                        256 + specials, specials, training_.vocabulary);
    BpeTrainingOptions settings;
    settings.vocabulary = training_.vocabulary - static_cast<uint32_t>(specials);
    settings.expression = training_.expression;
    settings.threads = options_.threads;
    BpeTrainer trainer(settings);
    add_sample(trainer);
    BpeSpec spec = trainer.train([&](uint32_t done, uint32_t total) { report("training the tokenizer", done, total); });
    return make_byte_level_tokenizer(std::move(spec), training_.expression, std::move(special),
                                     fmt::format("bpe-{}", training_.vocabulary));
  }

 private:
  void report(const char* stage, uint64_t done, uint64_t total) const {
    if (progress_) progress_({.stage = stage, .input_bytes = done, .input_total = total});
  }

  void add_sample(BpeTrainer& trainer) const {
    SplitPlanning planning{options_.validation, options_.drop_duplicates, options_.skip_bad, nullptr};
    const SplitRule rule = plan_split(inputs_.files, options_.documents, planning);
    const std::vector<uint64_t> budget = budgets(inputs_.files, training_.sample_bytes);
    const int threads =
        options_.threads > 0 ? options_.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    WordCounting counting(trainer, threads);
    const CutRule may_cut = [](std::string_view text, size_t at) { return text[at - 1] == '\n'; };
    DocumentReader reader(inputs_.files, options_.documents,
                          {.may_cut = may_cut, .skip_bad = options_.skip_bad, .reading = Reading::look});
    uint64_t used = 0, total_used = 0, total = 0;
    for (const InputFile& file : inputs_.files) total += weight_of(file);
    total = std::min(total, training_.sample_bytes);
    size_t file = 0;
    bool held_out = false;
    for (BlockDocument document; reader.next(document);) {
      if (reader.file() != file) {
        file = reader.file();
        used = 0;
      }
      if (document.begins) held_out = rule.by_document && document.hash < rule.threshold;
      if (!held_out) counting.add(document.text);
      used += document.text.size();
      total_used += document.text.size();
      report("counting words", total_used, total);
      if (used >= budget[file]) reader.skip_file();
    }
    counting.finish();
  }

  const CorpusBuildOptions& options_;
  const TokenizerTraining& training_;
  const InputList& inputs_;
  const CorpusBuildObserver& progress_;
};

/// The tokenizer that an interrupted build of the very same request has saved; null when there is none.
std::shared_ptr<const Tokenizer> saved_tokenizer(const CorpusBuildOptions& options, const InputList& inputs) try {
  if (!fs::exists(options.out / kBuildMarker)) return nullptr;
  const BuildRequest before = BuildJournal(options.out / kBuildMarker).read_request();
  if (before.empty()) return nullptr;
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(options.out);
  BuildRequest wanted = describe_request(options, inputs);
  wanted.push_back("tokenizer " + tokenizer->hash());
  for (const std::string& line : wanted)
    if (std::find(before.begin(), before.end(), line) == before.end()) return nullptr;
  return tokenizer;
} catch (const Error&) {
  return nullptr;  // then it is trained once more
}

}  // namespace

std::shared_ptr<const Tokenizer> train_tokenizer(CorpusBuildOptions& options, const TokenizerTraining& training,
                                                 const CorpusBuildObserver& progress) {
  std::string special;
  for (const std::string& name : training.special_tokens) special += " " + json_quote(name);
  options.tokenizer_origin = fmt::format(
      "trained here: vocabulary {}, expression {}, sample of {} "
      "bytes, special{}",
      training.vocabulary, json_quote(training.expression), training.sample_bytes, special);
  const InputList inputs = list_inputs(options.inputs, options.documents);
  for (const InputFile& file : inputs.files)
    if (file.format == InputFormat::megatron)
      throw Error::make(ExitCode::usage,
                        "--train-tokenizer: {} holds tokens, not text; name "
                        "the tokenizer that made them",
                        file.path.string());
  options.listed = std::make_shared<InputList>(inputs);
  if (std::shared_ptr<const Tokenizer> saved = saved_tokenizer(options, inputs)) return saved;
  return Training(options, training, inputs, progress).run();
}

}  // namespace capstan
