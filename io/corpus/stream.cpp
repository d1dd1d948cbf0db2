#include "io/corpus/stream.h"

#include <algorithm>
#include <mutex>

#include "core/error.h"
#include "io/checkpoint/digest.h"
#include "io/corpus/stream_blocks.h"
#include "io/corpus/stream_requests.h"

namespace capstan {
namespace {

constexpr uint64_t kTrainCache = uint64_t{32} << 20, kValidationCache = uint64_t{1} << 20;

uint64_t cache_bytes(const StreamOptions& options, Split split) {
  return options.cache_bytes ? options.cache_bytes : split == Split::train ? kTrainCache : kValidationCache;
}

/// Training: each corpus a source. Validation: all of them one after another, as one.
std::vector<SampleSource> sources_of(const std::vector<std::shared_ptr<const Corpus>>& corpora, Split split) {
  std::vector<SampleSource> sources;
  for (const auto& corpus : corpora) {
    const SplitRecord& record = corpus->manifest().split(split);
    if (split == Split::validation && !sources.empty()) {
      sources.front().corpus += " " + corpus->digest();
      sources.front().tokens += record.tokens(), sources.front().documents += record.documents();
      continue;
    }
    const auto times = 1 + std::count_if(sources.begin(), sources.end(), [&](const SampleSource& source) {
                         return source.corpus.starts_with(corpus->digest());
                       });
    sources.push_back({corpus->digest() + (times > 1 ? fmt::format("+{}", times) : ""),
                       corpus->directory().string(),
                       name_of(split),
                       record.tokens(),
                       record.documents(),
                       {}});
  }
  return sources;
}

}  // namespace

/// Everything that the reading thread uses, behind one lock.
class CorpusStream::Reader {
 public:
  Reader(const std::vector<std::shared_ptr<const Corpus>>& corpora, Split split, int64_t context, uint64_t seed,
         const StreamOptions& options, const Objective& objective)
      : window_(static_cast<uint64_t>(objective.window(context))),
        tokens_(corpora, split, cache_bytes(options, split)),
        blocks_(tokens_, split == Split::validation),
        sources_(sources_of(corpora, split)) {
    const bool train = split == Split::train;
    request_.stride = static_cast<uint64_t>(objective.stride(context));
    if (train) request_.packing = options.packing, request_.block = options.block, request_.blend = options.blend;
    if (train) request_.seed = seed;
    CAPSTAN_CHECK(request_.stride >= 1 && window_ >= request_.stride && window_ <= request_.stride + 1,
                  "samples of {} tokens, windows of {}", request_.stride, window_);
    for (size_t s = 0; s < sources_.size(); ++s)
      sources_[s].blocks = [this, s](const SourceCut& cut) { return blocks_.blocks(s, cut); };
    sequence_.emplace(sources_, request_);
    requests_ = std::make_unique<StreamRequests>(
        options.requests, [this] { tokens_.warm_up(); }, [this](StreamRequest& request) { read(request); });
  }

  bool continue_from(const Ledger& before, uint64_t cursor, uint64_t planned) {
    std::lock_guard lock(mutex_);
    request_.blend.samples = planned;
    sequence_.emplace(sources_, request_, before, cursor);
    return sequence_->changed();
  }
  StreamPlace place(uint64_t cursor) {
    std::lock_guard lock(mutex_);
    const SampleSequence::Place at = sequence_->at(cursor);
    const uint64_t token = first_token(at);
    const size_t corpus = tokens_.corpus_of(tokens_.shard_of(token));
    return {corpus, at.position.epoch, token - tokens_.begin_of(corpus)};
  }
  template <typename F>
  auto with_sequence(F&& use) {
    std::lock_guard lock(mutex_);
    return use(*sequence_);
  }
  /// Of the calling thread; the constructor and continue_from() write it, before anything is asked for.
  const Ledger& ledger() const { return sequence_->ledger(); }
  uint64_t window() const { return window_; }
  uint64_t size() const { return tokens_.size(); }
  size_t memory_bytes() const { return blocks_.memory_bytes(); }
  StreamRequests& requests() { return *requests_; }

 private:
  uint64_t first_token(const SampleSequence::Place& at) {
    bool first = true;
    uint64_t token = 0;
    sequence_->order(at.source).runs(at.position, [&](const BlockRun& run) {
      if (first) token = blocks_.first_token(at.source, at.position.cut, run);
      first = false;
    });
    return token;
  }
  void read(StreamRequest& request) {
    std::lock_guard lock(mutex_);
    const auto count = static_cast<size_t>(request.count);
    request.tokens.resize(count * window_);
    request.marks.resize(count * window_);
    request.keys.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const SampleSequence::Place at = sequence_->at(request.first + i);
      request.keys[i] = {request.first + i, first_token(at), at.position.epoch};
      blocks_.read(at.source, sequence_->order(at.source), at.position, window_ - request_.stride,
                   request.tokens.data() + i * window_, request.marks.data() + i * window_);
    }
  }

  const uint64_t window_;
  std::mutex mutex_;
  CorpusTokens tokens_;
  SampleReader blocks_;
  std::vector<SampleSource> sources_;
  SampleRequest request_;
  std::optional<SampleSequence> sequence_;
  std::unique_ptr<StreamRequests> requests_;  // last: its thread uses all of the above
};

CorpusStream::CorpusStream(std::vector<std::shared_ptr<const Corpus>> corpora, Split split, int64_t context,
                           uint64_t seed, const StreamOptions& options, std::shared_ptr<const Objective> objective)
    : context_(context), corpora_(std::move(corpora)), objective_(std::move(objective)) {
  if (corpora_.empty()) throw Error(ExitCode::config, "data.corpora: wanted at least one corpus directory, got none");
  CAPSTAN_CHECK(context >= 1, "context {}", context);
  const Tokenizer& words = tokenizer();
  text_bytes_.resize(words.vocabulary());
  for (uint32_t token = 0; token < words.vocabulary(); ++token)
    text_bytes_[token] = static_cast<uint16_t>(std::min<uint32_t>(words.text_bytes(token), UINT16_MAX));
  for (const auto& corpus : corpora_) corpus->require_shards();
  reader_ = std::make_unique<Reader>(corpora_, split, context, seed, options, *objective_);
  identity_ = fmt::format("{} {}", name_of(split), seed);
  for (const auto& corpus : corpora_) identity_ += " " + corpus->digest();
}

CorpusStream::~CorpusStream() = default;

bool CorpusStream::continue_from(const Ledger& before, uint64_t cursor, uint64_t planned) {
  return reader_->continue_from(before, cursor, planned);
}
uint64_t CorpusStream::tokens() const { return reader_->size(); }
uint64_t CorpusStream::samples_per_epoch() const {
  return reader_->with_sequence([](SampleSequence& sequence) { return sequence.samples_per_epoch(); });
}
StreamPlace CorpusStream::place(uint64_t cursor) const { return reader_->place(cursor); }
const Ledger& CorpusStream::ledger() const { return reader_->ledger(); }
std::vector<SourceReport> CorpusStream::report(uint64_t cursor) const {
  return reader_->with_sequence([&](SampleSequence& sequence) { return sequence.report(cursor); });
}
const Tokenizer& CorpusStream::tokenizer() const { return corpora_.front()->tokenizer(); }
double CorpusStream::wait_seconds() const { return reader_->requests().waited(); }
size_t CorpusStream::memory_bytes() const { return reader_->memory_bytes(); }

std::string CorpusStream::digest() const {
  Ledger nameless = ledger();
  for (LedgerSegment& segment : nameless.segments)
    for (LedgerSource& source : segment.sources) source.name.clear();
  return digest128_of(identity_ + nameless.to_json()).hex();
}

void CorpusStream::prefetch(uint64_t first, int64_t count) {
  CAPSTAN_CHECK(count > 0, "prefetch of {} samples", count);
  reader_->requests().prefetch(first, count, true);
}

SampleTally CorpusStream::fill(uint64_t first, int64_t count, const SampleFields& out) {
  CAPSTAN_CHECK(count > 0, "fill of {} samples", count);
  StreamRequest& request = reader_->requests().claim(first, count);
  struct Release {
    StreamRequests& requests;
    StreamRequest& request;
    ~Release() { requests.release(request); }
  } release{reader_->requests(), request};
  if (request.error) std::rethrow_exception(request.error);
  reader_->requests().prefetch(first + static_cast<uint64_t>(count), count, false);
  const TokenWindows windows{request.tokens,
                             request.marks,
                             request.keys,
                             count,
                             static_cast<int64_t>(reader_->window()),
                             tokenizer().end_of_document(),
                             text_bytes_};
  return objective_->write(windows, out);
}

}  // namespace capstan
