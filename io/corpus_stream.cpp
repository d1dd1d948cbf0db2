#include "io/corpus_stream.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "core/error.h"
#include "io/checkpoint_digest.h"
#include "io/corpus_tokens.h"
#include "io/keyed_permutation.h"

namespace capstan {
namespace {

constexpr uint64_t kTrainCache = uint64_t{32} << 20, kValidationCache = uint64_t{1} << 20;

/// cursor -> sample of the epoch, remembering the last epoch's permutation.
class SampleOrder {
 public:
  SampleOrder(uint64_t samples, std::optional<uint64_t> seed) : samples_(samples), seed_(seed) {}
  uint64_t samples() const { return samples_; }
  /// The same order without the memory: safe while another thread uses this one.
  SampleOrder fresh() const { return SampleOrder(samples_, seed_); }
  uint64_t at(uint64_t cursor) {
    const uint64_t epoch = cursor / samples_, position = cursor % samples_;
    if (!seed_) return position;
    if (!permutation_ || epoch_ != epoch) permutation_.emplace(samples_, *seed_, epoch_ = epoch);
    return (*permutation_)(position);
  }

 private:
  const uint64_t samples_;
  const std::optional<uint64_t> seed_;
  uint64_t epoch_ = 0;
  std::optional<KeyedPermutation> permutation_;
};

uint64_t samples_in(uint64_t tokens, int64_t context, int64_t window, Split split, const Corpus& corpus) {
  CAPSTAN_CHECK(context >= 1 && window > context, "context {}, window {}", context, window);
  if (tokens < static_cast<uint64_t>(window))
    throw Error::make(
        ExitCode::config,
        "model.context: a sample of context {} needs {} tokens, the {} split of {} has {}; choose a shorter "
        "context or build the corpus from more text{}",
        context, window, name_of(split), corpus.directory().string(), tokens,
        split == Split::validation ? " (or with a larger --validation)" : "");
  return (tokens - static_cast<uint64_t>(window - context)) / static_cast<uint64_t>(context);
}

}  // namespace

/// The background thread and what it was asked for. Requests are recycled, so that nothing large is allocated once a
/// run is under way.
class CorpusStream::Reader {
 public:
  struct Request {
    enum class State { free, queued, reading, ready };
    State state = State::free;
    bool claimed = false;  ///< a fill() waits for it
    uint64_t first = 0;
    int64_t count = 0;
    uint64_t order = 0;
    std::vector<uint32_t> tokens;  // (count, window)
    std::exception_ptr error;
  };

  Reader(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, int64_t context, uint64_t seed,
         const StreamOptions& options, int64_t window)
      : context_(context),
        window_(window),
        limit_(std::max<size_t>(options.requests, 1)),
        tokens_(corpora, split,
                options.cache_bytes     ? options.cache_bytes
                : split == Split::train ? kTrainCache
                                        : kValidationCache),
        order_(samples_in(tokens_.size(), context, window, split, *corpora.front()),
               split == Split::train ? std::optional(seed) : std::nullopt) {
    thread_ = std::thread([this] { run(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_; });
    if (!start_error_) return;
    lock.unlock();
    thread_.join();
    std::rethrow_exception(start_error_);
  }
  ~Reader() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  void prefetch(uint64_t first, int64_t count, bool hint) {
    std::lock_guard lock(mutex_);
    if (hint) hinted_ = true;
    if (!hint && hinted_) return;
    if (find(first, count)) return;
    if (Request* request = vacant(false)) queue(*request, first, count);
  }

  /// Waits for the request's tokens; the caller gives it back with release().
  Request& claim(uint64_t first, int64_t count) {
    std::unique_lock lock(mutex_);
    Request* request = find(first, count);
    if (!request) {
      request = vacant(true);
      if (!request) request = requests_.emplace_back(std::make_unique<Request>()).get();
      queue(*request, first, count);
    }
    request->claimed = true;
    if (request->state != Request::State::ready) {
      const auto begin = std::chrono::steady_clock::now();
      changed_.wait(lock, [&] { return request->state == Request::State::ready; });
      waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    return *request;
  }
  void release(Request& request) {
    std::lock_guard lock(mutex_);
    request.state = Request::State::free;
    request.claimed = false;
    request.error = nullptr;
  }

  int64_t context() const { return context_; }
  int64_t window() const { return window_; }
  uint64_t samples() const { return order_.samples(); }
  SampleOrder order() const { return order_.fresh(); }
  uint64_t size() const { return tokens_.size(); }
  size_t memory_bytes() const { return tokens_.memory_bytes(); }
  double waited() const {
    std::lock_guard lock(mutex_);
    return waited_;
  }

 private:
  Request* find(uint64_t first, int64_t count) {
    for (const auto& request : requests_)
      if (request->state != Request::State::free && !request->claimed && request->first == first &&
          request->count == count)
        return request.get();
    return nullptr;
  }
  /// A free request, a new one while there are few, or (for who must have one) the oldest that was read in vain.
  Request* vacant(bool must) {
    Request* oldest = nullptr;
    for (const auto& request : requests_) {
      if (request->state == Request::State::free) return request.get();
      if (request->state == Request::State::ready && !request->claimed && (!oldest || request->order < oldest->order))
        oldest = request.get();
    }
    if (requests_.size() < limit_) return requests_.emplace_back(std::make_unique<Request>()).get();
    return must ? oldest : nullptr;
  }
  void queue(Request& request, uint64_t first, int64_t count) {
    request.first = first;
    request.count = count;
    request.order = next_order_++;
    request.error = nullptr;
    request.state = Request::State::queued;
    changed_.notify_all();
  }
  /// What somebody waits for comes before what somebody may want.
  Request* next_queued() {
    Request* best = nullptr;
    for (const auto& request : requests_)
      if (request->state == Request::State::queued &&
          (!best || std::pair(!request->claimed, request->order) < std::pair(!best->claimed, best->order)))
        best = request.get();
    return best;
  }

  void run() {
    try {
      tokens_.warm_up();
    } catch (...) {
      start_error_ = std::current_exception();
    }
    std::unique_lock lock(mutex_);
    started_ = true;
    changed_.notify_all();
    while (!start_error_) {
      Request* request = nullptr;
      changed_.wait(lock, [&] { return stop_ || (request = next_queued()); });
      if (stop_) return;
      request->state = Request::State::reading;
      lock.unlock();
      read(*request);
      lock.lock();
      request->state = Request::State::ready;
      changed_.notify_all();
    }
  }
  void read(Request& request) {
    try {
      const auto window = static_cast<uint64_t>(window_);
      request.tokens.resize(static_cast<uint64_t>(request.count) * window);
      for (uint64_t i = 0; i < static_cast<uint64_t>(request.count); ++i)
        tokens_.read(order_.at(request.first + i) * static_cast<uint64_t>(context_), window,
                     request.tokens.data() + i * window);
    } catch (...) {
      request.error = std::current_exception();
    }
  }

  const int64_t context_, window_;
  const size_t limit_;
  CorpusTokens tokens_;  // by the thread only, once it runs
  SampleOrder order_;    // the same
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Request>> requests_;
  uint64_t next_order_ = 0;
  bool hinted_ = false, started_ = false, stop_ = false;
  std::exception_ptr start_error_;
  double waited_ = 0;
  std::thread thread_;
};

CorpusStream::CorpusStream(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, int64_t context,
                           uint64_t seed, const StreamOptions& options, std::shared_ptr<const Objective> objective)
    : corpora_(std::move(corpora)), objective_(std::move(objective)) {
  if (corpora_.empty()) throw Error(ExitCode::config, "data.corpora: wanted at least one corpus directory, got none");
  const Tokenizer& words = tokenizer();
  text_bytes_.resize(words.vocabulary());
  for (uint32_t token = 0; token < words.vocabulary(); ++token)
    text_bytes_[token] = static_cast<uint16_t>(std::min<uint32_t>(words.text_bytes(token), UINT16_MAX));
  reader_ = std::make_unique<Reader>(corpora_, split, context, seed, options, objective_->window(context));
  std::string identity = fmt::format("{} {} {}", name_of(split), context, seed);
  for (const auto& corpus : corpora_) identity += " " + corpus->digest();
  digest_ = digest128_of(identity).hex();
}

CorpusStream::~CorpusStream() = default;

int64_t CorpusStream::context() const { return reader_->context(); }
uint64_t CorpusStream::tokens() const { return reader_->size(); }
uint64_t CorpusStream::samples_per_epoch() const { return reader_->samples(); }
uint64_t CorpusStream::sample_at(uint64_t cursor) const { return reader_->order().at(cursor); }
const Tokenizer& CorpusStream::tokenizer() const { return corpora_.front()->tokenizer(); }
const Objective& CorpusStream::objective() const { return *objective_; }
double CorpusStream::wait_seconds() const { return reader_->waited(); }
size_t CorpusStream::memory_bytes() const { return reader_->memory_bytes(); }

void CorpusStream::prefetch(uint64_t first, int64_t count) {
  CAPSTAN_CHECK(count > 0, "prefetch of {} samples", count);
  reader_->prefetch(first, count, true);
}

SampleTally CorpusStream::fill(uint64_t first, int64_t count, const SampleFields& out) {
  CAPSTAN_CHECK(count > 0, "fill of {} samples", count);
  Reader::Request& request = reader_->claim(first, count);
  struct Release {
    Reader& reader;
    Reader::Request& request;
    ~Release() { reader.release(request); }
  } release{*reader_, request};
  if (request.error) std::rethrow_exception(request.error);
  reader_->prefetch(first + static_cast<uint64_t>(count), count, false);
  const TokenWindows windows{request.tokens, count, reader_->window(), tokenizer().end_of_document(), text_bytes_};
  return objective_->write(windows, out);
}

}  // namespace capstan
