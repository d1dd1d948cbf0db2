// label: cpu
// Best-fit packing: nothing lost, nothing twice, documents whole, little waste; and the stream over it.
#include "io/corpus/packing.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "io/corpus/stream.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

/// Packs documents of these lengths; checks coverage; returns the share of room that is left over.
double waste_of(const std::vector<uint64_t>& lengths, uint64_t capacity, uint64_t first = 0) {
  std::vector<uint64_t> offsets(1, first);
  for (const uint64_t length : lengths) offsets.push_back(offsets.back() + length);
  BestFit layout(capacity);
  layout.pack(offsets);
  std::vector<int> seen(offsets.back() - first);
  std::vector<PackedPiece> pieces;
  std::map<uint64_t, uint64_t> cuts;  // pieces of each document
  for (uint64_t sample = 0; sample < layout.samples(); ++sample) {
    layout.pieces(sample, pieces);
    uint64_t filled = 0;
    for (const PackedPiece& piece : pieces) {
      for (uint64_t t = 0; t < piece.count; ++t) ++seen[piece.first + t];
      filled += piece.count;
      ++cuts[piece.document];
      EXPECT_GE(piece.first + first, offsets[piece.document]);
      EXPECT_LE(piece.first + first + piece.count, offsets[piece.document + 1]);
    }
    EXPECT_GT(filled, 0u);
    EXPECT_LE(filled, capacity);
  }
  for (const int times : seen) EXPECT_EQ(times, 1);
  for (size_t d = 0; d < lengths.size(); ++d) EXPECT_EQ(cuts[d], (lengths[d] + capacity - 1) / capacity);
  return 1.0 - static_cast<double>(seen.size()) / static_cast<double>(layout.samples() * capacity);
}

TEST(BestFit, EveryTokenIsInOneSampleAndShortDocumentsAreWhole) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 100; ++round) {
    std::vector<uint64_t> lengths(1 + random() % 200);
    for (uint64_t& length : lengths) length = 1 + random() % (round % 2 ? 90 : 900);
    waste_of(lengths, 1 + random() % 300, random() % 1000);
  }
  waste_of({5}, 5);
  waste_of({5}, 1);
  waste_of({1000000}, 64);
}

TEST(BestFit, WastesLittleOnManyShortDocuments) {
  std::mt19937_64 random(4);
  std::vector<uint64_t> lengths(2000);
  for (uint64_t& length : lengths) length = 20 + random() % 1500;
  EXPECT_LT(waste_of(lengths, 4096), 0.01);
  EXPECT_LT(waste_of(lengths, 2048), 0.01);
}

TEST(BestFit, TakesTheSampleWithTheLeastRoomThatFits) {
  EXPECT_DOUBLE_EQ(waste_of({60, 70, 30, 40}, 100), 0.0);  // 70 + 30 and 60 + 40
}

TEST(BestFit, GroupsAreBounded) {
  std::vector<uint64_t> offsets;
  for (uint64_t d = 0; d <= 200000; ++d) offsets.push_back(d);
  EXPECT_EQ(BestFit::group_end(offsets, 0, 1 << 20), BestFit::kDocumentsPerGroup);
  EXPECT_EQ(BestFit::group_end(offsets, 7, 10) - 7, 2560u);
  EXPECT_EQ(BestFit::group_end(offsets, 199999, 10), 200000u);
}

class PackedStream : public testing::Test {
 protected:
  PackedStream() {
    documents_ = some_documents(600, 31);
    documents_.push_back(some_text(5000, 8));
    put_jsonl(directory_ / "d.jsonl", documents_);
    build(directory_ / "c", {directory_ / "d.jsonl"}, 20000, 0.01);
    corpus_ = Corpus::open(directory_ / "c");
  }
  TemporaryDirectory directory_;
  std::vector<std::string> documents_;
  std::shared_ptr<const Corpus> corpus_;
};

struct Filled {
  explicit Filled(int64_t context)
      : tokens(static_cast<size_t>(context)),
        targets(tokens.size()),
        documents(tokens.size()),
        weights(tokens.size()) {}
  SampleFields fields() {
    return SampleFields()
        .set("tokens", tokens.data())
        .set("targets", targets.data())
        .set("document_ids", documents.data())
        .set("loss_weights", weights.data());
  }
  std::vector<int32_t> tokens, targets, documents;
  std::vector<float> weights;
};

TEST_F(PackedStream, AnEpochIsTheTextWithDocumentsWhole) {
  constexpr int64_t kContext = 512;
  CorpusStream stream({corpus_}, Split::train, kContext, 6, {.packing = Packing::best_fit});
  Filled sample(kContext);
  std::multiset<std::string> seen;
  uint64_t blank = 0;
  double weight = 0;
  const uint64_t count = stream.samples_per_epoch();
  for (uint64_t k = 0; k < count; ++k) {
    const SampleTally tally = stream.fill(k, 1, sample.fields());
    blank += tally.blank;
    weight += tally.weight;
    std::string text;
    for (size_t t = 0; t < sample.tokens.size(); ++t) {
      if (sample.tokens[t] != 256) text += static_cast<char>(sample.tokens[t]);
      if (sample.weights[t] != 0) {
        const bool last = t + 1 == sample.tokens.size();
        ASSERT_TRUE(last || sample.targets[t] == sample.tokens[t + 1]);
        ASSERT_TRUE(last || sample.documents[t] == sample.documents[t + 1]);
      }
      if (sample.tokens[t] == 256 || t + 1 == sample.tokens.size()) {
        if (!text.empty()) seen.insert(text);
        text.clear();
      }
    }
  }
  const SplitRecord& train = corpus_->manifest().train;
  EXPECT_EQ(weight, static_cast<double>(train.tokens() - train.documents()));  // every token but the first of each
  EXPECT_EQ(blank, count * kContext - train.tokens());
  EXPECT_LT(static_cast<double>(blank) / static_cast<double>(count * kContext),
            0.05);  // groups of small shards are small
  size_t whole = 0;
  for (const std::string& document : documents_) whole += seen.contains(document);
  EXPECT_GE(whole + 20, documents_.size());  // but for validation and the long one
}

TEST_F(PackedStream, AnyCursorAndBothCachesGiveTheSame) {
  CorpusStream stream({corpus_}, Split::train, 256, 6, {.packing = Packing::best_fit}),
      other({corpus_}, Split::train, 256, 6, {.cache_bytes = 1, .packing = Packing::best_fit});
  Filled one(256), two(256);
  for (const uint64_t k : {900u, 3u, 77u, 1u << 20, 0u}) {
    stream.fill(k, 1, one.fields());
    other.fill(k, 1, two.fields());
    EXPECT_EQ(one.tokens, two.tokens);
    EXPECT_EQ(one.weights, two.weights);
  }
}

TEST_F(PackedStream, AChangeOfPackingAndContextInMidEpochReadsNothingTwice) {
  Ledger ledger;
  uint64_t cursor = 0;
  std::map<uint64_t, double> weight;  // by epoch
  struct Change {
    int64_t context;
    Packing packing;
    uint64_t samples;
  };
  for (const Change& change : std::vector<Change>{{128, Packing::stream, 300},
                                                  {96, Packing::best_fit, 200},
                                                  {200, Packing::best_fit, 900},
                                                  {64, Packing::stream, 6000}}) {
    CorpusStream stream({corpus_}, Split::train, change.context, 6, {.packing = change.packing});
    stream.continue_from(ledger, cursor, 0);
    Filled sample(change.context);
    for (uint64_t k = 0; k < change.samples; ++k)
      weight[stream.place(cursor + k).epoch] += stream.fill(cursor + k, 1, sample.fields()).weight;
    cursor += change.samples;
    ledger = Ledger::from_json(stream.ledger().to_json(), "ledger");
  }
  const SplitRecord& train = corpus_->manifest().train;
  const double all = static_cast<double>(train.tokens() - train.documents());
  EXPECT_LE(weight[0], all);
  EXPECT_GT(weight[0], all * 0.97);
  EXPECT_LE(weight[1], all);
  EXPECT_GT(weight[1], all * 0.97);
}

TEST_F(PackedStream, WithoutADocumentMaskPositionsRunOn) {
  CorpusStream stream({corpus_}, Split::train, 256, 6, {}, std::make_shared<CausalObjective>(false));
  std::vector<int32_t> positions(256), documents(256);
  std::vector<float> weights(256);
  const SampleTally tally = stream.fill(0, 1,
                                        SampleFields()
                                            .set("positions", positions.data())
                                            .set("document_ids", documents.data())
                                            .set("loss_weights", weights.data()));
  EXPECT_EQ(tally.weight, 256.0);
  EXPECT_EQ(positions.back(), 255);
  EXPECT_EQ(documents.back(), 0);
}

}  // namespace
}  // namespace capstan
