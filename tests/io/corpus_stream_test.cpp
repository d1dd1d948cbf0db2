// label: cpu
// CorpusStream: samples, order, epochs, fields, prefetch and errors.
#include "io/corpus/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "io/tokenizer/byte_tokenizer.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

struct Batch {
  explicit Batch(int64_t count, int64_t context)
      : tokens(static_cast<size_t>(count * context)),
        targets(tokens.size()),
        positions(tokens.size()),
        documents(tokens.size()),
        weights(tokens.size()) {}
  SampleFields fields() {
    return SampleFields()
        .set("tokens", tokens.data())
        .set("targets", targets.data())
        .set("loss_weights", weights.data())
        .set("positions", positions.data())
        .set("document_ids", documents.data());
  }
  std::vector<int32_t> tokens, targets, positions, documents;
  std::vector<float> weights;
};

std::vector<int32_t> tokens_of(CorpusStream& stream, uint64_t first, int64_t count) {
  Batch batch(count, stream.context());
  stream.fill(first, count, batch.fields());
  return batch.tokens;
}

class Stream : public testing::Test {
 protected:
  Stream() {
    put(directory_ / "a", text_);
    build(directory_ / "one", {directory_ / "a"});
    documents_ = some_documents(400, 12);
    put_jsonl(directory_ / "d.jsonl", documents_);
    build(directory_ / "many", {directory_ / "d.jsonl"}, 7000, 0.1);
  }
  std::vector<std::shared_ptr<const Corpus>> one() const { return {Corpus::open(directory_ / "one")}; }
  std::vector<std::shared_ptr<const Corpus>> many() const { return {Corpus::open(directory_ / "many")}; }

  TemporaryDirectory directory_;
  const std::string text_ = some_text(50000, 11);  // 45,000 bytes of it for training
  std::vector<std::string> documents_;
};

TEST_F(Stream, SamplesAreTheTextAtTheirPlace) {
  CorpusStream stream(one(), Split::train, 64, 1);
  EXPECT_EQ(stream.tokens(), 45001u);
  EXPECT_EQ(stream.samples_per_epoch(), 45000u / 64);
  Batch batch(10, 64);
  const SampleTally tally = stream.fill(5, 10, batch.fields());
  for (uint64_t s = 0; s < 10; ++s)
    for (uint64_t t = 0; t < 64; ++t) {
      const uint64_t place = stream.place(5 + s).token + t;
      EXPECT_EQ(batch.tokens[s * 64 + t], text_[place]);
      EXPECT_EQ(batch.targets[s * 64 + t], text_[place + 1]);
      EXPECT_EQ(batch.positions[s * 64 + t], static_cast<int32_t>(t));
      EXPECT_EQ(batch.documents[s * 64 + t], 0);
      EXPECT_EQ(batch.weights[s * 64 + t], 1.0f);
    }
  EXPECT_EQ(tally.weight, 640.0);
  EXPECT_EQ(tally.text_bytes, 640u);
}

TEST_F(Stream, AnEpochVisitsEverySampleOnceAndTheNextInAnotherOrder) {
  CorpusStream stream(one(), Split::train, 64, 1);
  const uint64_t n = stream.samples_per_epoch();
  std::vector<uint64_t> first, second;
  for (uint64_t k = 0; k < n; ++k) {
    first.push_back(stream.place(k).token);
    second.push_back(stream.place(n + k).token);
  }
  EXPECT_NE(first, second);
  EXPECT_EQ(std::set<uint64_t>(first.begin(), first.end()).size(), n);
  EXPECT_EQ(std::set<uint64_t>(second.begin(), second.end()).size(), n);
  std::vector<int32_t> across = tokens_of(stream, n - 1, 2), last = tokens_of(stream, n - 1, 1);
  const std::vector<int32_t> next = tokens_of(stream, n, 1);
  last.insert(last.end(), next.begin(), next.end());
  EXPECT_EQ(across, last);
}

TEST_F(Stream, TheOrderIsAFunctionOfSeedCorpusAndCursorAlone) {
  CorpusStream stream(many(), Split::train, 32, 5), same(many(), Split::train, 32, 5),
      other(many(), Split::train, 32, 6);
  const std::vector<int32_t> whole = tokens_of(stream, 40, 24);
  // Four ranks, microbatches of three, asked for in any order.
  std::vector<int32_t> parts(whole.size());
  for (const uint64_t part : {5u, 0u, 7u, 2u, 1u, 6u, 3u, 4u}) {
    const std::vector<int32_t> got = tokens_of(same, 40 + 3 * part, 3);
    std::copy(got.begin(), got.end(), parts.begin() + static_cast<long>(part) * 3 * 32);
  }
  EXPECT_EQ(whole, parts);
  EXPECT_NE(whole, tokens_of(other, 40, 24));
  EXPECT_EQ(stream.digest(), same.digest());
  EXPECT_NE(stream.digest(), other.digest());
}

TEST_F(Stream, ValidationIsInItsNaturalOrder) {
  CorpusStream stream(one(), Split::validation, 50, 9);
  EXPECT_EQ(stream.place(7).token, 7u * 50);
  const std::vector<int32_t> tokens = tokens_of(stream, 0, 20);
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i], text_[45000 + i]);
  EXPECT_EQ(tokens_of(stream, stream.samples_per_epoch(), 1), tokens_of(stream, 0, 1));
}

// Field by field against a slow reading of the definition, over shards with many short documents.
TEST_F(Stream, FieldsFollowTheDocuments) {
  constexpr int64_t kContext = 100;
  CorpusStream stream(many(), Split::train, kContext, 3);
  CorpusStream plain(many(), Split::train, 1, 3);
  std::vector<int32_t> line(stream.tokens());  // the whole split, token by token
  Batch all(static_cast<int64_t>(plain.samples_per_epoch()), 1);
  plain.fill(0, static_cast<int64_t>(plain.samples_per_epoch()), all.fields());
  for (uint64_t k = 0; k < plain.samples_per_epoch(); ++k) {
    const uint64_t at = plain.place(k).token;
    line[at] = all.tokens[k];
    line[at + 1] = all.targets[k];
  }
  const auto count = static_cast<int64_t>(stream.samples_per_epoch());
  Batch batch(count, kContext);
  const SampleTally tally = stream.fill(0, count, batch.fields());
  double weight = 0;
  uint64_t bytes = 0, boundaries = 0;
  for (int64_t s = 0; s < count; ++s) {
    int32_t document = 0, position = 0;
    for (int64_t t = 0; t < kContext; ++t) {
      const auto at = static_cast<size_t>(s * kContext + t);
      const uint64_t place = stream.place(static_cast<uint64_t>(s)).token + static_cast<uint64_t>(t);
      if (t > 0 && line[place - 1] == 256) ++document, position = 0;
      ASSERT_EQ(batch.tokens[at], line[place]);
      ASSERT_EQ(batch.targets[at], line[place + 1]);
      ASSERT_EQ(batch.documents[at], document);
      ASSERT_EQ(batch.positions[at], position++);
      ASSERT_EQ(batch.weights[at], line[place] == 256 ? 0.0f : 1.0f);
      weight += batch.weights[at];
      boundaries += line[place] == 256;
      bytes += line[place] != 256 && line[place + 1] != 256;
    }
  }
  EXPECT_GT(boundaries, 300u);
  EXPECT_EQ(tally.weight, weight);
  EXPECT_EQ(tally.text_bytes, bytes);
}

TEST_F(Stream, SeveralCorporaFollowOneAnother) {
  std::vector<std::shared_ptr<const Corpus>> both = one();
  both.push_back(many().front());
  CorpusStream stream(both, Split::validation, 10, 1);
  EXPECT_EQ(stream.tokens(), both[0]->manifest().validation.tokens() + both[1]->manifest().validation.tokens());
  CorpusStream second(many(), Split::validation, 1, 1);
  const uint64_t seam = both[0]->manifest().validation.tokens();
  const uint64_t sample = seam / 10;
  const std::vector<int32_t> tokens = tokens_of(stream, sample, 1), start = tokens_of(second, 0, 10);
  for (uint64_t i = seam - sample * 10; i < 10; ++i) EXPECT_EQ(tokens[i], start[i - (seam - sample * 10)]);
}

TEST_F(Stream, ASmallCacheGivesTheSame) {
  CorpusStream large(many(), Split::train, 200, 4), small(many(), Split::train, 200, 4, {.cache_bytes = 1});
  EXPECT_LT(small.memory_bytes(), large.memory_bytes());
  EXPECT_EQ(tokens_of(large, 0, 100), tokens_of(small, 0, 100));
}

TEST_F(Stream, HintsChangeNothingButTheWaiting) {
  CorpusStream stream(many(), Split::train, 64, 2), plain(many(), Split::train, 64, 2);
  for (uint64_t step = 0; step < 20; ++step) {
    for (uint64_t micro = 0; micro < 40; ++micro) stream.prefetch(step * 200 + micro * 4, 4);  // more than it keeps
    for (const uint64_t micro : {3u, 1u, 0u, 39u}) {
      const uint64_t first = step * 200 + micro * 4;
      ASSERT_EQ(tokens_of(stream, first, 4), tokens_of(plain, first, 4)) << first;
    }
  }
  bool ready = false;  // sooner or later a hinted batch is there before it is asked for
  for (uint64_t first = 9000; !ready && first < 9200; first += 4) {
    stream.prefetch(first, 4);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const double before = stream.wait_seconds();
    tokens_of(stream, first, 4);
    ready = stream.wait_seconds() == before;
  }
  EXPECT_TRUE(ready);
}

TEST_F(Stream, ThreadsMayShareIt) {
  CorpusStream stream(many(), Split::train, 64, 2), plain(many(), Split::train, 64, 2);
  const std::vector<int32_t> wanted = tokens_of(plain, 0, 400);
  std::vector<int32_t> got(wanted.size());
  std::vector<std::thread> ranks;
  for (uint64_t rank = 0; rank < 4; ++rank)
    ranks.emplace_back([&, rank] {
      for (uint64_t k = rank; k < 100; k += 4) {
        const std::vector<int32_t> part = tokens_of(stream, k * 4, 4);
        std::copy(part.begin(), part.end(), got.begin() + static_cast<long>(k) * 256);
      }
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(got, wanted);
}

TEST_F(Stream, UnwantedFieldsMayBeLeftOut) {
  CorpusStream stream(one(), Split::train, 64, 1);
  std::vector<int32_t> targets(64);
  EXPECT_EQ(stream.fill(0, 1, SampleFields().set("targets", targets.data())).weight, 64.0);
  EXPECT_EQ(targets[0], text_[stream.place(0).token + 1]);
  EXPECT_EQ(CausalObjective().fields(64).size(), 5u);
}

TEST_F(Stream, TooLongAContextIsAConfigError) {
  const Outcome outcome = outcome_of([&] { CorpusStream(one(), Split::validation, 5001, 1); });
  EXPECT_EQ(outcome.code, ExitCode::config);
  EXPECT_TRUE(outcome.says("5001") && outcome.says("--validation")) << outcome.message;
  EXPECT_EQ(CorpusStream(one(), Split::validation, 5000, 1).samples_per_epoch(), 1u);
  EXPECT_EQ(outcome_of([&] { CorpusStream({}, Split::train, 5, 1); }).code, ExitCode::config);
}

TEST_F(Stream, ErrorsInTheThreadAreThrownByFill) {
  const fs::path shard = directory_ / "one/train-00000.h5";
  std::string bad = get(shard), stored;
  for (size_t i = 40000; i < 40100; ++i) stored += {text_[i], '\0'};
  bad[bad.find(stored)] ^= 2;  // in the second of two chunks
  put(shard, bad);
  CorpusStream stream(one(), Split::train, 64, 1);
  size_t errors = 0, good = 0;
  for (uint64_t k = 0; k < 100; ++k) {
    const Outcome outcome = outcome_of([&] { tokens_of(stream, k, 1); });
    const bool in_second = stream.place(k).token + 64 >= 32768;
    EXPECT_EQ(outcome.code, in_second ? ExitCode::bad_data : ExitCode::done);
    EXPECT_EQ(outcome.says("chunk 1 of 2"), in_second) << outcome.message;
    ++(in_second ? errors : good);
  }
  EXPECT_GT(errors, 10u);
  EXPECT_GT(good, 10u);
}

TEST_F(Stream, ABadShardIsKnownAtTheStart) {
  const fs::path shard = directory_ / "one/train-00000.h5";
  std::string bad = get(shard);
  bad[0] ^= 1;  // the signature
  put(shard, bad);
  EXPECT_EQ(outcome_of([&] { CorpusStream(one(), Split::train, 64, 1); }).code, ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
