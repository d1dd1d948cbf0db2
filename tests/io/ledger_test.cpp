// label: plan
// The order of a source when the length of samples changes, and the ledger that carries it.
#include "io/corpus/ledger.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "core/error.h"
#include "io/corpus/stream_samples.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

SampleRequest request_of(uint64_t stride, uint64_t block = 0, std::vector<double> weights = {}) {
  SampleRequest request;
  request.stride = stride, request.block = block, request.seed = 9;
  request.blend.weights = std::move(weights);
  return request;
}

std::vector<SampleSource> sources(const std::vector<uint64_t>& tokens) {
  std::vector<SampleSource> out;
  for (const uint64_t count : tokens)
    out.push_back({"corpus" + std::to_string(out.size()), "c", "train", count, 1, {}});
  return out;
}

/// How often each token of each source was read, by (source, epoch).
using Reads = std::map<std::pair<size_t, uint64_t>, std::vector<int>>;

void read(SampleSequence& sequence, uint64_t first, uint64_t end, const std::vector<uint64_t>& tokens, Reads& reads) {
  for (uint64_t k = first; k < end; ++k) {
    const SampleSequence::Place place = sequence.at(k);
    std::vector<int>& seen = reads[{place.source, place.position.epoch}];
    seen.resize(tokens[place.source]);
    uint64_t count = 0;
    sequence.order(place.source).runs(place.position, [&](const BlockRun& run) {
      for (uint64_t t = 0; t < run.count; ++t) ++seen.at(run.block * place.position.cut.block + run.offset + t);
      count += run.count;
    });
    ASSERT_EQ(count, sequence.segment().stride);
  }
}

struct Change {
  uint64_t samples, stride, block;
};

/// Goes through the changes, each from the ledger as it was written and read back. Within an epoch nothing may be read
/// twice, and only `lost` tokens of an epoch that was finished may be left out.
void expect_each_token_once(const std::vector<uint64_t>& tokens, const std::vector<Change>& changes, uint64_t lost) {
  Ledger ledger;
  Reads reads;
  uint64_t cursor = 0;
  for (const Change& change : changes) {
    SampleSequence sequence(sources(tokens), request_of(change.stride, change.block),
                            ledger.segments.empty() ? ledger : Ledger::from_json(ledger.to_json(), "ledger"), cursor);
    read(sequence, cursor, cursor + change.samples, tokens, reads);
    cursor += change.samples;
    ledger = sequence.ledger();
  }
  size_t finished = 0;
  for (const auto& [which, seen] : reads) {
    uint64_t missing = 0;
    for (const int times : seen) {
      ASSERT_LE(times, 1) << "source " << which.first << ", epoch " << which.second;
      missing += times == 0;
    }
    if (!reads.contains({which.first, which.second + 1})) continue;
    ++finished;
    EXPECT_LE(missing, lost) << "source " << which.first << ", epoch " << which.second;
  }
  EXPECT_GT(finished, 0u);
}

TEST(SourceOrder, WithoutAChangeAnEpochReadsAllButTheEnd) {
  expect_each_token_once({1000}, {{300, 10, 0}}, 10);
  expect_each_token_once({1003, 777}, {{600, 7, 0}}, 7);
}

TEST(SourceOrder, ALongerOrShorterContextReadsNothingTwice) {
  expect_each_token_once({1001}, {{40, 10, 0}, {20, 20, 0}, {100, 10, 0}}, 10 + 2 * 20);
  expect_each_token_once({1001}, {{40, 10, 0}, {30, 4, 0}, {30, 7, 0}, {300, 5, 0}}, 10 + 10 + 4 + 7);
  expect_each_token_once({1001}, {{3, 100, 0}, {500, 3, 0}}, 100 + 3);
}

TEST(SourceOrder, BlocksLetTheContextGrowWithoutSeams) {
  const std::vector<uint64_t> tokens = {64 * 5000 + 1};
  SampleSequence before(sources(tokens), request_of(8, 64));
  SampleSequence after(sources(tokens), request_of(32, 64), before.ledger(), 3000);
  EXPECT_TRUE(after.changed());
  uint64_t seams = 0, whole = 0;
  const uint64_t rest = (1024 * 64 - 3000 * 8) / 32;  // samples until the group that is under way ends
  for (uint64_t k = 0; k < 5000; ++k) {
    const SampleSequence::Place place = after.at(3000 + k);
    uint64_t runs = 0;
    after.order(0).runs(place.position, [&](const BlockRun&) { ++runs; });
    (k < rest ? seams : whole) += runs - 1;
  }
  EXPECT_EQ(seams, rest * 3);
  EXPECT_EQ(whole, 0u);
  expect_each_token_once(tokens, {{3000, 8, 64}, {1000, 32, 64}, {20000, 16, 64}}, 64 + 3 * 32);
}

TEST(SourceOrder, RandomChangesReadNothingTwice) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 60; ++round) {
    std::vector<uint64_t> tokens(1 + random() % 3);
    for (uint64_t& count : tokens) count = 500 + random() % 3000;
    std::vector<Change> changes;
    uint64_t lost = 0, longest = 0;
    for (int c = 0; c < 5; ++c) {
      const uint64_t stride = 1 + random() % 60, block = random() % 3 ? 0 : stride * (1 + random() % 6);
      changes.push_back({20 + random() % 100, stride, block});
      longest = std::max({longest, stride, block});
      lost += std::max(stride, block);
    }
    changes.push_back({4000, 7, 0});
    expect_each_token_once(tokens, changes, lost + 7 + longest);
  }
}

TEST(SourceOrder, KnowsWhatWasVisited) {
  SampleSequence sequence(sources({50001}), request_of(5, 50));
  std::set<uint64_t> seen;
  for (uint64_t k = 0; k < 6000; ++k) {
    const SampleSequence::Place place = sequence.at(k);
    sequence.order(0).runs(place.position, [&](const BlockRun& run) { seen.insert(run.block); });
  }
  const SourcePosition now = sequence.at(6000).position;
  for (uint64_t block = 0; block < 1000; ++block)
    ASSERT_EQ(sequence.order(0).visited(now, block), seen.contains(block)) << block;
}

TEST(Ledger, AnInterruptedRunNamesTheSameSamples) {
  const std::vector<uint64_t> tokens = {4000, 9000};
  SampleSequence whole(sources(tokens), request_of(16, 0, {1, 2}));
  Ledger ledger = whole.ledger();
  for (uint64_t cursor : {0u, 77u, 78u, 1500u}) {
    SampleSequence resumed(sources(tokens), request_of(16, 0, {1, 2}), Ledger::from_json(ledger.to_json(), "l"),
                           cursor);
    EXPECT_FALSE(resumed.changed());
    for (uint64_t k = cursor; k < cursor + 200; ++k) ASSERT_EQ(resumed.at(k).position, whole.at(k).position);
    ledger = resumed.ledger();
    EXPECT_EQ(ledger, whole.ledger());
  }
}

TEST(Ledger, ACorpusThatWasLeftOutGoesOnWhereItStood) {
  const std::vector<uint64_t> tokens = {4000, 9000};
  SampleSequence both(sources(tokens), request_of(10));
  const std::vector<SourceReport> before = both.report(600);
  SampleSequence one(sources({4000}), request_of(10), both.ledger(), 600);
  ASSERT_EQ(one.segment().sources.size(), 2u);
  EXPECT_EQ(one.segment().sources[1].samples, before[1].samples_read);
  SampleSequence again(sources(tokens), request_of(10), Ledger::from_json(one.ledger().to_json(), "l"), 700);
  EXPECT_EQ(again.report(700)[1].samples_read, before[1].samples_read);
  EXPECT_DOUBLE_EQ(again.report(700)[1].epochs_read, before[1].epochs_read);
  EXPECT_EQ(again.report(700)[0].samples_read, before[0].samples_read + 100);
}

TEST(Ledger, RefusesWhatItDidNotWrite) {
  SampleSequence sequence(sources({4000}), request_of(10));
  const std::string text = sequence.ledger().to_json();
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string bad = text;
    bad.replace(bad.find(from), from.size(), to);
    return support::outcome_of([&] {
             const Ledger ledger = Ledger::from_json(bad, "ledger");
             SampleSequence(sources({4000}), request_of(10), ledger, 5);
           })
        .code;
  };
  EXPECT_EQ(broken("\"version\":1", "\"version\":1"), ExitCode::done);
  EXPECT_EQ(broken("\"version\":1", "\"version\":2"), ExitCode::bad_data);
  EXPECT_EQ(broken("\"packing\":\"stream\"", "\"packing\":\"heap\""), ExitCode::bad_data);
  EXPECT_EQ(broken("\"stride\":10", "\"stride\":0"), ExitCode::bad_data);
  EXPECT_EQ(broken("\"first\":0", "\"first\":9"), ExitCode::bad_data);
  EXPECT_EQ(broken("\"group_blocks\":399", "\"group_blocks\":4000"), ExitCode::bad_data);
  EXPECT_EQ(broken("\"piece\":10", "\"piece\":0"), ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
