#include "io/corpus/stream_samples.h"

#include <algorithm>

#include "core/error.h"
#include "io/checkpoint/digest.h"
#include "io/corpus/digest.h"

namespace capstan {
namespace {

/// Sources of the same seed go their own ways: no two are in step.
uint64_t source_seed(uint64_t seed, const std::string& corpus) {
  return seed * 0x9e3779b97f4a7c15ull ^ xxh3_64(corpus);
}

SourceOrder::Blocks blocks_of(const SampleSource& source) {
  return [&source](const SourceCut& cut) {
    if (cut.packing == Packing::stream) return stream_blocks(source.tokens, cut.block);
    CAPSTAN_CHECK(source.blocks, "{}: no table of packed samples", source.name);
    return source.blocks(cut);
  };
}

std::string list_text(const std::vector<double>& list) {
  std::string text;
  for (const double x : list) text += fmt::format(" {}", x);
  return text;
}

const LedgerSource* find(const std::vector<LedgerSource>& sources, const std::string& corpus) {
  const auto found =
      std::find_if(sources.begin(), sources.end(), [&](const LedgerSource& s) { return s.corpus == corpus; });
  return found == sources.end() ? nullptr : &*found;
}

}  // namespace

SampleSequence::SampleSequence(std::vector<SampleSource> sources, SampleRequest request, Ledger before, uint64_t cursor)
    : sources_(std::move(sources)), request_(std::move(request)), ledger_(std::move(before)) {
  CAPSTAN_CHECK(!sources_.empty() && request_.stride >= 1, "a sequence of nothing");
  const std::string asked = digest_of_request();
  if (ledger_.segments.empty() || ledger_.segments.back().request != asked) {
    changed_ = !ledger_.segments.empty();
    LedgerSegment next = next_segment(cursor);
    next.request = asked;
    if (changed_ && ledger_.segments.back().first == cursor) ledger_.segments.pop_back();
    ledger_.segments.push_back(std::move(next));
  }
  if (ledger_.segments.back().first > cursor)
    throw Error::make(ExitCode::bad_data, "the ledger of the run goes to sample {}, but its cursor stands at {}",
                      ledger_.segments.back().first, cursor);
  make_orders(ledger_.segments.back().sources);
}

/// Blocks as long as asked for, or a sample when that is longer than the corpus.
SourceCut SampleSequence::cut_for(const SampleSource& source) const {
  if (request_.packing == Packing::best_fit || request_.block == 0) return {request_.packing, request_.stride};
  return {request_.packing, source.tokens > request_.block ? request_.block : request_.stride};
}

std::string SampleSequence::digest_of_request() const {
  const BlendRequest& blend = request_.blend;
  std::string text = fmt::format("{} {} {} |{} |{} |{} {}|", request_.stride, name_of(request_.packing), request_.block,
                                 list_text(blend.weights), list_text(blend.epochs), list_text(blend.max_epochs),
                                 blend.max_epochs.empty() ? 0 : blend.samples);
  for (const SampleSource& source : sources_) text += " " + source.corpus;
  return digest128_of(text).hex();
}

/// Where each source stands at `cursor` by the ledger so far, and the shares from there on.
LedgerSegment SampleSequence::next_segment(uint64_t cursor) {
  LedgerSegment next{cursor, request_.stride, {}, {}};
  if (!ledger_.segments.empty()) {  // walk the old segment to its end first, whatever is asked for now
    const LedgerSegment& last = ledger_.segments.back();
    std::vector<uint64_t> shares;
    for (const LedgerSource& source : last.sources) shares.push_back(source.share);
    const std::vector<uint64_t> counts = BlendSequence(shares).counts(cursor - last.first);
    for (size_t s = 0; s < counts.size(); ++s) {
      LedgerSource source = last.sources[s];
      source.samples += counts[s];
      source.tokens += counts[s] * last.stride;
      source.share = 0;
      const LedgerSource& old = last.sources[s];
      const auto blocks = [&](const SourceCut& cut) { return cut == old.cut ? old.cut_blocks : old.start_blocks; };
      source.start = SourceOrder(0, last.stride, source.cut, source.start, blocks).at(counts[s]);
      source.start_blocks = blocks(source.start.cut);
      next.sources.push_back(std::move(source));
    }
  }
  std::vector<LedgerSource> ordered;  // those of the blend first, as the user lists them
  std::vector<BlendSource> known;
  for (const SampleSource& source : sources_) {
    LedgerSource row;
    if (const LedgerSource* old = find(next.sources, source.corpus)) row = *old;
    row.corpus = source.corpus, row.name = source.name, row.cut = cut_for(source);
    ordered.push_back(row);
  }
  make_orders(ordered);
  for (size_t s = 0; s < sources_.size(); ++s) {
    ordered[s].start = orders_[s].at(0);
    ordered[s].cut_blocks = orders_[s].cut_blocks();
    ordered[s].start_blocks =
        ordered[s].start.cut == ordered[s].cut ? orders_[s].cut_blocks() : orders_[s].start_blocks();
    known.push_back({sources_[s].name, orders_[s].samples_per_epoch(), orders_[s].epochs_at(ordered[s].start)});
  }
  const std::vector<uint64_t> shares = plan_blend(request_.blend, known, cursor);
  for (size_t s = 0; s < sources_.size(); ++s) ordered[s].share = shares[s];
  for (const LedgerSource& source : next.sources)
    if (!find(ordered, source.corpus)) ordered.push_back(source);
  next.sources = std::move(ordered);
  return next;
}

/// One order for each source of the blend; sources that have left it need none.
void SampleSequence::make_orders(const std::vector<LedgerSource>& wanted) {
  orders_.clear();
  std::vector<uint64_t> shares;
  for (size_t s = 0; s < sources_.size(); ++s) {
    const LedgerSource& row = wanted[s];
    const SampleSource& source = sources_[s];
    if (source.tokens <= request_.stride)
      throw Error::make(ExitCode::config,
                        "model.context: a sample of context {} needs {} tokens, the {} split of {} has {}; choose a "
                        "shorter context or build the corpus from more text{}",
                        request_.stride, request_.stride + 1, source.split, source.name, source.tokens,
                        source.split == "validation" ? " (or with a larger --validation)" : "");
    std::optional<uint64_t> seed;
    if (request_.seed) seed = source_seed(*request_.seed, row.corpus);
    orders_.emplace_back(seed.value_or(0), request_.stride, row.cut, row.start, blocks_of(source), seed.has_value());
    shares.push_back(row.share);
  }
  blend_.clear();
  if (std::any_of(shares.begin(), shares.end(), [](uint64_t share) { return share > 0; })) blend_.emplace_back(shares);
}

SampleSequence::Place SampleSequence::at(uint64_t cursor) {
  CAPSTAN_CHECK(cursor >= segment().first, "sample {} of a segment that begins at {}", cursor, segment().first);
  const BlendSequence::Place place = blend_.front().at(cursor - segment().first);
  return {place.source, place.index, orders_[place.source].at(place.index)};
}

uint64_t SampleSequence::samples_per_epoch() const {
  uint64_t samples = 0;
  for (const SourceOrder& order : orders_) samples += order.samples_per_epoch();
  return samples;
}

std::vector<SourceReport> SampleSequence::report(uint64_t cursor) {
  const std::vector<uint64_t> counts = blend_.front().counts(cursor - segment().first);
  double shares = 0;
  for (const uint64_t share : blend_.front().shares()) shares += static_cast<double>(share);
  std::vector<SourceReport> rows;
  for (size_t s = 0; s < sources_.size(); ++s) {
    const LedgerSource& row = segment().sources[s];
    rows.push_back({row.name, row.corpus, sources_[s].tokens, sources_[s].documents, orders_[s].samples_per_epoch(),
                    static_cast<double>(row.share) / shares, row.samples + counts[s],
                    row.tokens + counts[s] * segment().stride, orders_[s].epochs_at(orders_[s].at(counts[s]))});
  }
  return rows;
}

}  // namespace capstan
