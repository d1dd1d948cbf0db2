#include "io/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "io/tokenizer/bpe_merge_learner.h"
#include "io/tokenizer/bpe_word_counter.h"
#include "io/tokenizer/splitter.h"

namespace capstan {
namespace {

constexpr size_t kBatch = size_t{256} << 10;
constexpr uint32_t kBytes = 256, kMostTrainedPieces = 1u << 24;

std::unique_ptr<Splitter> make_splitter(const std::string& expression) {
  if (std::unique_ptr<Splitter> known = known_splitter(expression)) return known;
  return regex_splitter(expression, "the expression to train with");
}

bool is_word_sign(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/// Where to cut a long text so that no known expression sees a difference: at a line end between two ASCII letters or
/// digits. The whole text when there is none.
size_t text_part_size(std::string_view text) {
  for (size_t at = kBatch; (at = text.find('\n', at)) != text.npos && at + 1 < text.size(); ++at)
    if (is_word_sign(text[at - 1]) && is_word_sign(text[at + 1])) return at + 1;
  return text.size();
}

/// Texts one after the other; words do not reach from one into the next.
struct Batch {
  std::string text;
  std::vector<size_t> ends;
};

}  // namespace

struct BpeTrainer::State {
  explicit State(BpeTrainingOptions wanted);
  ~State();
  void add(std::string_view text);
  void drain();

  BpeTrainingOptions options;
  bool known = false;  ///< the expression
  WordCounter total;
  bool any = false;

 private:
  struct Worker {
    std::unique_ptr<Splitter> splitter;
    WordCounter words;
    std::thread thread;
  };
  void put(std::string_view text);
  void send(std::unique_lock<std::mutex>& lock);
  void work(Worker& worker);
  static void count(Worker& worker, const Batch& batch);
  void rethrow();

  std::mutex mutex_;
  std::condition_variable changed_;
  Batch pending_;
  std::deque<Batch> batches_;
  size_t busy_ = 0;
  bool closing_ = false;
  std::exception_ptr failure_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

BpeTrainer::State::State(BpeTrainingOptions wanted) : options(std::move(wanted)) {
  if (options.expression.empty()) options.expression = named_expression("gpt2");
  if (options.threads <= 0) options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (options.vocabulary < kBytes || options.vocabulary > kMostTrainedPieces)
    throw Error::make(ExitCode::usage, "a byte-level vocabulary of {} pieces: wanted {} (the bytes) to {}",
                      options.vocabulary, kBytes, kMostTrainedPieces);
  known = known_splitter(options.expression) != nullptr;
  for (int i = 0; i < options.threads; ++i) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->splitter = make_splitter(options.expression);
  }
  for (auto& worker : workers_) worker->thread = std::thread([this, &w = *worker] { work(w); });
}

BpeTrainer::State::~State() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    batches_.clear();
  }
  changed_.notify_all();
  for (auto& worker : workers_)
    if (worker->thread.joinable()) worker->thread.join();
}

void BpeTrainer::State::add(std::string_view text) {
  while (known && text.size() > 2 * kBatch) {
    const size_t size = text_part_size(text);
    put(text.substr(0, size));
    text.remove_prefix(size);
  }
  put(text);
}

void BpeTrainer::State::put(std::string_view text) {
  if (text.empty()) return;
  std::unique_lock lock(mutex_);
  rethrow();
  any = true;
  pending_.text += text;
  pending_.ends.push_back(pending_.text.size());
  if (pending_.text.size() >= kBatch) send(lock);
}

void BpeTrainer::State::send(std::unique_lock<std::mutex>& lock) {
  Batch batch;
  std::swap(batch, pending_);
  changed_.wait(lock, [&] { return batches_.size() < 2 * workers_.size() || failure_; });
  rethrow();
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

void BpeTrainer::State::rethrow() {
  if (failure_) std::rethrow_exception(failure_);
}

void BpeTrainer::State::work(Worker& worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || !batches_.empty(); });
    if (closing_) return;
    const Batch batch = std::move(batches_.front());
    batches_.pop_front();
    ++busy_;
    changed_.notify_all();
    lock.unlock();
    std::exception_ptr failure;
    try {
      count(worker, batch);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure && !failure_) failure_ = failure;
    --busy_;
    changed_.notify_all();
  }
}

void BpeTrainer::State::count(Worker& worker, const Batch& batch) {
  std::vector<uint32_t> ends;
  size_t begin = 0;
  for (const size_t end : batch.ends) {
    const std::string_view text = std::string_view(batch.text).substr(begin, end - begin);
    ends.clear();
    worker.splitter->split(text, ends);
    worker.words.add(text, ends);
    begin = end;
  }
}

/// Afterwards all words are in `total`.
void BpeTrainer::State::drain() {
  std::unique_lock lock(mutex_);
  rethrow();
  if (!pending_.text.empty()) send(lock);
  changed_.wait(lock, [&] { return (batches_.empty() && busy_ == 0) || failure_; });
  rethrow();
  for (auto& worker : workers_) {
    if (total.size() == 0)
      std::swap(total, worker->words);
    else
      total.add(worker->words);
    worker->words = WordCounter();
  }
}

BpeTrainer::BpeTrainer(BpeTrainingOptions options) : state_(std::make_unique<State>(std::move(options))) {}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) { state_->add(text); }

uint64_t BpeTrainer::distinct_words() const {
  state_->drain();
  return state_->total.size();
}

BpeSpec BpeTrainer::train(const std::function<void(uint32_t, uint32_t)>& progress) {
  state_->drain();
  if (!state_->any)
    throw Error::make(ExitCode::bad_data, "there is no text to train a tokenizer on: wanted at least one word");
  const BpeTrainingOptions& options = state_->options;
  BpeMergeLearner learner(state_->total, options.least_count, options.longest_piece);
  return learner.learn(options.vocabulary, progress);
}

}  // namespace capstan
