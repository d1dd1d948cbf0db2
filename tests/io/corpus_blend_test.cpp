// label: cpu
// Blends: shares, caps, whose sample comes when, what is held out of overlapping corpora, and samples of huge
// manifests.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "io/corpus/blend.h"
#include "io/corpus/digest.h"
#include "io/corpus/shard.h"
#include "io/corpus/stream.h"
#include "io/corpus/stream_samples.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

using Wide = __int128;

/// Largest distance of any source from its exact share at any prefix of `samples` samples from `from` on, in parts of
/// the sum of all shares; checks the indexes.
Wide worst_error(const std::vector<uint64_t>& shares, uint64_t samples, uint64_t from = 0) {
  BlendSequence blend(shares);
  std::vector<uint64_t> counts = blend.counts(from);
  const uint64_t total = std::accumulate(shares.begin(), shares.end(), uint64_t{0});
  Wide worst = 0;
  for (uint64_t k = from; k < from + samples; ++k) {
    const BlendSequence::Place place = blend.at(k);
    EXPECT_EQ(place.index, counts[place.source]) << k;
    ++counts[place.source];
    for (size_t s = 0; s < shares.size(); ++s) {
      const Wide error = Wide{counts[s]} * total - Wide{shares[s]} * (k + 1);
      worst = std::max(worst, error < 0 ? -error : error);
    }
  }
  return worst;
}

/// Shares of a kind that is hard to keep to: of very different size, nearly equal, one large and many small, ...
std::vector<uint64_t> hard_shares(std::mt19937_64& random, size_t sources, unsigned kind) {
  std::vector<uint64_t> shares;
  for (size_t s = 0; s < sources; ++s) {
    const double draw = static_cast<double>(random() % 1000003) / 1000003;
    const auto power = [&](double digits) { return 1 + static_cast<uint64_t>(std::pow(10.0, digits * draw)); };
    switch (kind % 6) {
      case 0:
        shares.push_back(power(9));
        break;
      case 1:
        shares.push_back(1 + random() % 1000);
        break;
      case 2:
        shares.push_back(s == 0 ? 1000000000 : 1 + random() % 1000);
        break;
      case 3:
        shares.push_back(static_cast<uint64_t>(1e9 / (static_cast<double>(s) + 1 + draw * 0.01)));
        break;
      case 4:
        shares.push_back(s < 2 ? 500000000 + random() % 1000000 : power(7));
        break;
      default:
        shares.push_back(uint64_t{1} << random() % 40);
    }
  }
  return shares;
}

TEST(Blend, EverySourceIsLessThanOneSampleFromItsShareAtEveryPrefix) {
  std::mt19937_64 random(20);
  Wide largest = 0;  // of all blends, in millionths of a sample
  for (unsigned round = 0; round < 360; ++round) {
    const size_t sources = 2 + random() % (round % 2 ? 63 : 8);
    const std::vector<uint64_t> shares = hard_shares(random, sources, round);
    const uint64_t total = std::accumulate(shares.begin(), shares.end(), uint64_t{0});
    uint64_t from = round % 3 == 0 ? 0 : random() % (uint64_t{1} << (10 + random() % 30));
    if (round % 3 == 1) {  // where a rare source is due
      const Wide due = Wide{1 + random() % 1000} * total / shares[random() % sources];
      if (due > 600 && due < Wide{1} << 46) from = static_cast<uint64_t>(due) - 600;
    }
    const Wide worst = worst_error(shares, 1300, from);
    EXPECT_LT(worst, Wide{total}) << sources << " sources of kind " << round % 6 << " from " << from;
    largest = std::max(largest, worst * 1000000 / total);
  }
  EXPECT_GT(largest, 900000) << "no blend was hard: the check checks nothing";
}

// 46 sources that come once in a million samples or less beside one that has nearly all: here a rule that looks at
// remainders alone gives some of them too early, and then cannot keep to the others' shares for a million samples.
TEST(Blend, RareSourcesHaveTheirSharesToo) {
  std::mt19937_64 random(7);
  std::vector<uint64_t> shares(1, 1000000);
  for (size_t s = 0; s < 46; ++s) shares.push_back(1 + random() % 3);
  const uint64_t total = std::accumulate(shares.begin(), shares.end(), uint64_t{0});
  EXPECT_LT(worst_error(shares, 60000), Wide{total});
  EXPECT_LT(worst_error(shares, 60000, 1000000 - 30000), Wide{total});
}

TEST(Blend, ItIsTheSameFarFromTheBeginning) {
  EXPECT_LT(worst_error({5, 3, 2}, 2000, uint64_t{1} << 40), Wide{10});
  BlendSequence blend({700, 299, 1}), again({700, 299, 1});
  std::vector<size_t> whose;
  for (uint64_t k = 0; k < 5000; ++k) whose.push_back(blend.at(k).source);
  for (uint64_t k = 5000; k-- > 0;) ASSERT_EQ(again.at(k).source, whose[k]) << k;
  EXPECT_EQ(BlendSequence({9}).at(123456789012).index, 123456789012u);
}

TEST(Blend, NothingComesFromAShareOfZero) {
  BlendSequence blend({3, 0, 1});
  EXPECT_EQ(blend.counts(4000), (std::vector<uint64_t>{3000, 0, 1000}));
}

// A checkpoint's cursor names these samples for ever.
TEST(Blend, IsFrozen) {
  BlendSequence blend({5, 3, 2});
  std::string whose;
  for (uint64_t k = 0; k < 20; ++k) whose += static_cast<char>('a' + blend.at(k).source);
  for (uint64_t k = 1000000; k < 1000010; ++k) whose += static_cast<char>('a' + blend.at(k).source);
  EXPECT_EQ(whose, "abacababacabacababacabacababac");
}

std::vector<BlendSource> three() { return {{"a", 100, 0}, {"b", 1000, 0}, {"c", 10, 0}}; }

TEST(PlanBlend, WeightsTokensAndEpochs) {
  EXPECT_EQ(plan_blend({}, three(), 0), (std::vector<uint64_t>{100, 1000, 10}));
  const auto weights = plan_blend({.weights = {2, 1, 1}}, three(), 0);
  EXPECT_EQ(weights[0], 2 * weights[1]);
  EXPECT_EQ(weights[1], weights[2]);
  const auto epochs = plan_blend({.epochs = {1, 2, 0}}, three(), 0);
  EXPECT_NEAR(static_cast<double>(epochs[1]) / static_cast<double>(epochs[0]), 20.0, 1e-6);
  EXPECT_EQ(epochs[2], 0u);
}

TEST(PlanBlend, CapsHoldAndWhatTheyFreeGoesToTheOthers) {
  const BlendRequest request{.weights = {1, 1, 1}, .max_epochs = {2, 0, 3}, .samples = 900};
  const std::vector<uint64_t> shares = plan_blend(request, three(), 0);
  BlendSequence blend(shares);
  const std::vector<uint64_t> counts = blend.counts(900);
  EXPECT_EQ(counts, (std::vector<uint64_t>{200, 670, 30}));
  for (uint64_t k = 0; k <= 900; ++k) {
    EXPECT_LE(blend.counts(k)[0], 200u);
    EXPECT_LE(blend.counts(k)[2], 30u);
  }
  // Resumed after a third: what was read counts.
  std::vector<BlendSource> later = three();
  later[0].seen = 1.5, later[1].seen = 0.14, later[2].seen = 1;
  EXPECT_EQ(BlendSequence(plan_blend(request, later, 300)).counts(600), (std::vector<uint64_t>{50, 530, 20}));
}

/// Caps, weights and a length of the run that leave some choice; sources of a few samples to many.
TEST(PlanBlend, NoCapIsEverPassed) {
  std::mt19937_64 random(5);
  size_t refused = 0, held = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<BlendSource> sources(1 + random() % 12);
    BlendRequest request;
    uint64_t most = 0;  // samples that all caps together allow
    for (size_t s = 0; s < sources.size(); ++s) {
      sources[s] = {std::to_string(s), 1 + random() % (s % 2 ? 2000 : 20), 0};
      request.weights.push_back(static_cast<double>(random() % 7));
      const double caps[] = {1, 2, 0.5, 3.25};
      request.max_epochs.push_back(caps[random() % 4]);
      if (request.weights.back() > 0)
        most += static_cast<uint64_t>(request.max_epochs.back() * static_cast<double>(sources[s].samples) + 1e-6);
    }
    if (most == 0) continue;
    request.samples = round % 4 == 0 ? most : round % 4 == 1 ? most + 1 : 1 + random() % most;
    const uint64_t cursor = 0;
    std::vector<uint64_t> shares;
    const Outcome outcome = outcome_of([&] { shares = plan_blend(request, sources, cursor); });
    if (request.samples > most) {
      EXPECT_EQ(outcome.code, ExitCode::config);
      ++refused;
      continue;
    }
    ASSERT_EQ(outcome.message, "") << round;
    BlendSequence blend(shares);
    const std::vector<uint64_t> counts = blend.counts(request.samples);  // they only grow: at the end is everywhere
    for (size_t s = 0; s < sources.size(); ++s) {
      const double cap = request.max_epochs[s] * static_cast<double>(sources[s].samples);
      EXPECT_LE(static_cast<double>(counts[s]), cap + 1e-6) << "source " << s << " of round " << round;
      EXPECT_EQ(counts[s] == 0, request.weights[s] == 0 || counts[s] == 0);
      held += static_cast<double>(counts[s]) > cap - 1 && request.weights[s] > 0;
    }
  }
  EXPECT_GT(refused, 50u);
  EXPECT_GT(held, 500u);
}

TEST(PlanBlend, ACapThatIsMetExactlyIsNotPassed) {
  for (uint64_t a = 1; a < 40; ++a)
    for (uint64_t b = 1; b < 40; ++b) {  // caps of one epoch, weights as the samples: all ends together
      const std::vector<BlendSource> sources = {{"a", a, 0}, {"b", b, 0}, {"c", 7, 0}};
      const BlendRequest request{
          .weights = {static_cast<double>(a), static_cast<double>(b), 7.0}, .max_epochs = {1}, .samples = a + b + 7};
      EXPECT_EQ(BlendSequence(plan_blend(request, sources, 0)).counts(request.samples),
                (std::vector<uint64_t>{a, b, 7}));
    }
}

TEST(PlanBlend, ImpossibleCapsAreRefusedWithNumbers) {
  const Outcome outcome = outcome_of([] { plan_blend({.max_epochs = {2}, .samples = 5000}, three(), 0); });
  EXPECT_EQ(outcome.code, ExitCode::config);
  EXPECT_TRUE(outcome.says("2220 samples") && outcome.says("5000") && outcome.says("b: 1000 samples an epoch"))
      << outcome.message;
  EXPECT_TRUE(outcome.says("would be exhausted at sample 2220 of 5000")) << outcome.message;
  std::vector<BlendSource> later = three();  // after a resume
  later[0].seen = 2, later[1].seen = 1.9, later[2].seen = 2;
  const Outcome end = outcome_of([&] { plan_blend({.max_epochs = {2}, .samples = 5000}, later, 2120); });
  EXPECT_TRUE(end.says("would be exhausted at sample 2220 of 5000")) << end.message;
  EXPECT_EQ(outcome_of([] { plan_blend({.weights = {1, 2}}, three(), 0); }).code, ExitCode::config);
  EXPECT_EQ(outcome_of([] { plan_blend({.weights = {0, 0, 0}}, three(), 0); }).code, ExitCode::config);
  EXPECT_EQ(outcome_of([] { plan_blend({.weights = {1, -2, 1}}, three(), 0); }).code, ExitCode::config);
}

class BlendStream : public testing::Test {
 protected:
  std::vector<std::string> texts_of(const std::string& corpus, Split split) {
    CorpusStream stream({Corpus::open(directory_ / corpus)}, split, 1, 1);
    std::string all;
    const auto count = static_cast<int64_t>(stream.samples_per_epoch());
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    std::vector<std::pair<uint64_t, int32_t>> line;
    stream.fill(0, count, SampleFields().set("tokens", tokens.data()));
    for (int64_t k = 0; k < count; ++k) line.emplace_back(stream.place(static_cast<uint64_t>(k)).token, tokens[k]);
    std::sort(line.begin(), line.end());
    std::vector<std::string> documents(1);
    for (const auto& [place, token] : line)
      if (token == 256)
        documents.emplace_back();
      else
        documents.back() += static_cast<char>(token);
    return documents;
  }
  TemporaryDirectory directory_;
};

/// All documents that a blend trains on in an epoch or more: runs of targets with weight.
std::set<std::string> trained(CorpusStream& stream, uint64_t samples) {
  const int64_t context = stream.context();
  std::vector<int32_t> tokens(static_cast<size_t>(context)), targets(tokens.size());
  std::vector<float> weights(tokens.size());
  std::set<std::string> seen;
  const SampleFields fields =
      SampleFields().set("tokens", tokens.data()).set("targets", targets.data()).set("loss_weights", weights.data());
  for (uint64_t k = 0; k < samples; ++k) {
    stream.fill(k, 1, fields);
    std::string run;
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (tokens[t] != 256) run += static_cast<char>(tokens[t]);
      if (weights[t] == 0 || t + 1 == tokens.size()) {
        if (run.size() >= 8) seen.insert(run);
        run.clear();
      }
    }
  }
  return seen;
}

TEST_F(BlendStream, ValidationIsNeverTrainedOnEvenWhenCorporaOverlap) {
  const std::vector<std::string> documents = some_documents(300, 77);
  put_jsonl(directory_ / "all.jsonl", documents);
  put_jsonl(directory_ / "some.jsonl", {documents.begin() + 50, documents.begin() + 250});
  put_jsonl(directory_ / "few.jsonl", {documents.begin() + 100, documents.begin() + 120});  // split by place
  build(directory_ / "one", {directory_ / "all.jsonl"}, 7000, 0.02);
  build(directory_ / "two", {directory_ / "some.jsonl"}, 7000, 0.2);
  build(directory_ / "three", {directory_ / "few.jsonl"}, 7000, 0.3);
  std::vector<std::shared_ptr<const Corpus>> corpora;
  std::vector<std::string> held_out;
  for (const char* name : {"one", "two", "three"}) {
    corpora.push_back(Corpus::open(directory_ / name));
    for (const std::string& text : texts_of(name, Split::validation))
      if (text.size() >= 24) held_out.push_back(text);
  }
  ASSERT_FALSE(corpora[2]->manifest().split_rule.by_document);
  ASSERT_GT(held_out.size(), 30u);
  const auto contains_any = [&](const std::set<std::string>& runs) {
    size_t found = 0;
    for (const std::string& run : runs)
      for (const std::string& text : held_out)
        for (size_t at = 0; at + 8 <= run.size() && run.size() >= 24; at += run.size())
          found += text.find(run.substr(0, 24)) != std::string::npos;
    return found;
  };
  size_t naive = 0;
  for (const auto& corpus : corpora) {  // alone, each trains on what another holds out: the check can fail
    CorpusStream alone({corpus}, Split::train, 64, 3);
    naive += contains_any(trained(alone, alone.samples_per_epoch()));
  }
  EXPECT_GT(naive, 30u);
  CorpusStream blend(corpora, Split::train, 64, 3, {.blend = {.weights = {1, 1, 1}}});
  const std::set<std::string> seen = trained(blend, 3 * blend.samples_per_epoch());
  EXPECT_GT(seen.size(), 500u);
  EXPECT_EQ(contains_any(seen), 0u);
  std::vector<float> weights(64);
  uint64_t blank = 0;
  for (uint64_t k = 0; k < blend.samples_per_epoch(); ++k)
    blank += blend.fill(k, 1, SampleFields().set("loss_weights", weights.data())).blank;
  EXPECT_GT(blank, 1000u);
}

// The document that a split by place cuts through: both its parts bear the hash of the whole, by which another corpus
// that has the whole document leaves it out, and so does one that cuts it elsewhere.
TEST_F(BlendStream, ADocumentCutByTheSplitIsHeldOutOfOtherCorpora) {
  const std::string book = some_text(60000, 501);
  std::vector<std::string> few = some_documents(6, 9), many = some_documents(300, 10);
  few.push_back(book);
  put_jsonl(directory_ / "few.jsonl", few);
  many.insert(many.begin() + 100, book);
  put_jsonl(directory_ / "many.jsonl", many);
  put(directory_ / "book", book);
  build(directory_ / "cut", {directory_ / "few.jsonl"});  // the last tenth of it all is the book's end
  build(directory_ / "whole", {directory_ / "many.jsonl"});
  build(directory_ / "elsewhere", {directory_ / "book"}, 1 << 26, 0.4);
  const auto cut = Corpus::open(directory_ / "cut"), whole = Corpus::open(directory_ / "whole"),
             elsewhere = Corpus::open(directory_ / "elsewhere");
  const auto hashes = [](const std::shared_ptr<const Corpus>& corpus, Split split) {
    const ShardRecord& record = corpus->manifest().split(split).shards.front();
    return CorpusShard(corpus->directory(), record, corpus->manifest()).read_document_hashes();
  };
  for (const auto& corpus : {cut, elsewhere}) {
    ASSERT_FALSE(corpus->manifest().split_rule.by_document);
    EXPECT_EQ(hashes(corpus, Split::train).back(), xxh3_64(book));
    EXPECT_EQ(hashes(corpus, Split::validation), std::vector<uint64_t>(1, xxh3_64(book)));
  }
  const auto reads_book = [&](const std::vector<std::shared_ptr<const Corpus>>& corpora, size_t from, size_t to) {
    CorpusStream stream(corpora, Split::train, 64, 3, {.blend = {.weights = std::vector<double>(corpora.size(), 1)}});
    size_t found = 0;
    for (const std::string& run : trained(stream, 4 * stream.samples_per_epoch())) {
      const size_t at = run.size() < 20 ? book.npos : book.find(run);
      found += at != book.npos && at >= from && at < to;
    }
    return found;
  };
  const size_t last = book.size();
  EXPECT_GT(reads_book({whole}, 0, last), 500u);  // alone it trains on the book
  EXPECT_GT(reads_book({cut}, 0, last), 500u);    // and so does this one, on its beginning
  EXPECT_EQ(reads_book({cut}, last * 95 / 100, last), 0u);
  const size_t beginning = reads_book({cut, whole}, 0, last);
  EXPECT_GT(beginning, 500u);  // its own corpus goes on reading the beginning
  EXPECT_EQ(reads_book({cut, whole}, last * 95 / 100, last), 0u);
  EXPECT_EQ(reads_book({cut, elsewhere, whole}, 0, last), 0u);  // now each part is held out by somebody
}

TEST_F(BlendStream, SharesAreKeptAndTheReportSaysSo) {
  put(directory_ / "a", some_text(30000, 1));
  put(directory_ / "b", some_text(90000, 2));
  build(directory_ / "small", {directory_ / "a"});
  build(directory_ / "large", {directory_ / "b"});
  const std::vector<std::shared_ptr<const Corpus>> both = {Corpus::open(directory_ / "small"),
                                                           Corpus::open(directory_ / "large")};
  CorpusStream stream(both, Split::train, 50, 4, {.blend = {.weights = {1, 1}}});
  std::map<size_t, uint64_t> counts;
  std::set<uint64_t> places;
  for (uint64_t k = 0; k < 1000; ++k) {
    const StreamPlace place = stream.place(k);
    ++counts[place.source];
    if (place.source == 0 && place.epoch == 0) {
      EXPECT_TRUE(places.insert(place.token).second);
    }
  }
  EXPECT_EQ(counts[0], 500u);
  const std::vector<SourceReport> report = stream.report(1080);
  EXPECT_EQ(report[0].samples_per_epoch, 540u);
  EXPECT_EQ(report[0].samples_read, 540u);
  EXPECT_DOUBLE_EQ(report[0].epochs_read, 1.0);
  EXPECT_NEAR(report[1].epochs_read, 540.0 / 1620, 1e-9);
  CorpusStream natural(both, Split::train, 50, 4);
  EXPECT_NEAR(natural.report(1080)[0].epochs_read, natural.report(1080)[1].epochs_read, 0.002);
}

TEST_F(BlendStream, TwoCorporaOfOneTextAreNotInStep) {
  put(directory_ / "a", some_text(30000, 1));
  build(directory_ / "first", {directory_ / "a"});
  build(directory_ / "second", {directory_ / "a"});
  CorpusStream stream({Corpus::open(directory_ / "first"), Corpus::open(directory_ / "second")}, Split::train, 50, 4);
  uint64_t same = 0;
  for (uint64_t k = 0; k < 400; k += 2) same += stream.place(k).token == stream.place(k + 1).token;
  EXPECT_LT(same, 5u);
}

/// 10^12 tokens in 10,000 shards: files of the right size that hold nothing.
void make_huge_corpus(const fs::path& directory) {
  const ByteTokenizer tokenizer;
  CorpusManifest manifest;
  manifest.tokenizer_name = tokenizer.name();
  manifest.tokenizer_hash = tokenizer.hash();
  manifest.vocabulary = tokenizer.vocabulary();
  manifest.end_of_document = tokenizer.end_of_document();
  manifest.split_rule = {true, uint64_t{1} << 50, 0};
  fs::create_directory(directory);
  const auto add = [&](SplitRecord& split, const std::string& name, uint64_t i) {
    split.shards.push_back({name,
                            100'000'000,
                            20'000 + i,
                            99'000'000,
                            32768,
                            210'000'000 + i,
                            {xxh3_64(name), i},
                            {i, xxh3_64(name)},
                            {xxh3_64(name), i + 1},
                            0,
                            {}});
    put(directory / name, "");
    fs::resize_file(directory / name, split.shards.back().file_size);
  };
  for (uint64_t i = 0; i < 10000; ++i) add(manifest.train, fmt::format("train-{:05}.h5", i), i);
  add(manifest.validation, "validation-00000.h5", 1);
  put(directory / "tokenizer.json", tokenizer.description());
  put(directory / kManifestName, manifest.serialize());
}

/// In a child, so that its memory is its own. Says how long it took; the time alone is no reason to fail.
TEST(HugeCorpus, OpensAndGivesAnySampleAtOnceInLittleMemory) {
  TemporaryDirectory directory;
  make_huge_corpus(directory / "c");
  const pid_t child = fork();
  if (child == 0) {
    const auto begin = std::chrono::steady_clock::now();
    const auto corpus = Corpus::open(directory / "c");
    const uint64_t tokens = corpus->manifest().train.tokens();
    SampleSequence sequence({{corpus->digest(), "c", "train", tokens, corpus->manifest().train.documents(), {}}},
                            {.stride = 8, .packing = Packing::stream, .block = 0, .blend = {}, .seed = 1});
    const SampleSequence::Place place = sequence.at(123'456'789'012);
    uint64_t token = 0;
    sequence.order(0).runs(place.position, [&](const BlockRun& run) { token = run.block * 8 + run.offset; });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::fprintf(stderr, "opened; sample 123,456,789,012 is at token %llu of epoch %llu: %.2f ms in all\n",
                 static_cast<unsigned long long>(token), static_cast<unsigned long long>(place.position.epoch),
                 seconds * 1e3);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    _exit(tokens == 1'000'000'000'000 && token < tokens && seconds < 1.0 && used.ru_maxrss < 64 * 1024 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(outcome_of([&] { Corpus::open(directory / "c")->require_shards(); }).message, "");
  fs::remove(directory / "c" / "train-07777.h5");
  const Outcome gone = outcome_of([&] { CorpusStream({Corpus::open(directory / "c")}, Split::train, 8, 1); });
  EXPECT_TRUE(gone.code == ExitCode::missing_input && gone.says("train-07777.h5")) << gone.message;
}

}  // namespace
}  // namespace capstan
