// label: cpu
// corpus build: what is packed is the text, the split rules, determinism, and what a build refuses to do.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "io/corpus/shard.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

/// All tokens of a split, read through the verified shards.
std::vector<uint32_t> tokens_of(const Corpus& corpus, Split split) {
  std::vector<uint32_t> tokens;
  for (const ShardRecord& record : corpus.manifest().split(split).shards) {
    const CorpusShard shard(corpus.directory(), record, corpus.manifest());
    std::vector<uint16_t> chunk(record.chunk_tokens);
    for (uint64_t i = 0; i < shard.chunks(); ++i) {
      shard.read_chunk(i, chunk.data());
      tokens.insert(tokens.end(), chunk.begin(), chunk.begin() + static_cast<long>(shard.tokens_in(i)));
    }
  }
  return tokens;
}

/// The documents of a split, as text.
std::vector<std::string> documents_in(const Corpus& corpus, Split split) {
  std::vector<std::string> documents(1);
  for (const uint32_t token : tokens_of(corpus, split)) {
    if (token == ByteTokenizer::kEndOfDocument)
      documents.emplace_back();
    else
      documents.back().push_back(static_cast<char>(token));
  }
  EXPECT_TRUE(documents.back().empty()) << "the last document has no end";
  documents.pop_back();
  return documents;
}

std::multiset<std::string> as_set(const std::vector<std::string>& documents) {
  return {documents.begin(), documents.end()};
}

class CorpusBuild : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(CorpusBuild, OneFileGivesItsLastTenthToValidation) {
  const std::string text = some_text(123457, 1);
  put(directory_ / "book.txt", text);
  const CorpusBuildResult result = build(directory_ / "c", {directory_ / "book.txt"});
  EXPECT_FALSE(result.split_by_document);
  const auto corpus = Corpus::open(directory_ / "c");
  const size_t cut = 123457 * 9 / 10;  // int(n * 0.9)
  EXPECT_EQ(documents_in(*corpus, Split::train), std::vector<std::string>{text.substr(0, cut)});
  EXPECT_EQ(documents_in(*corpus, Split::validation), std::vector<std::string>{text.substr(cut)});
  EXPECT_EQ(corpus->manifest().train.bytes(), cut);
  EXPECT_EQ(corpus->manifest().train.tokens(), cut + 1);
  EXPECT_FALSE(fs::exists(directory_ / "c" / kBuildMarker));
}

TEST_F(CorpusBuild, AnExplicitShareOfAFewDocuments) {
  put(directory_ / "a", std::string(600, 'a'));
  put(directory_ / "b", std::string(400, 'b'));
  build(directory_ / "c", {directory_ / "a", directory_ / "b"}, 1 << 20, 0.5);
  const auto corpus = Corpus::open(directory_ / "c");
  EXPECT_EQ(documents_in(*corpus, Split::train), std::vector<std::string>{std::string(500, 'a')});
  EXPECT_EQ(documents_in(*corpus, Split::validation),
            (std::vector<std::string>{std::string(100, 'a'), std::string(400, 'b')}));
}

TEST_F(CorpusBuild, TheCutSparesCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xe2\x82\xac";
  put(directory_ / "a", text.substr(0, 2999 - 2));
  build(directory_ / "c", {directory_ / "a"});
  const auto corpus = Corpus::open(directory_ / "c");
  EXPECT_EQ(documents_in(*corpus, Split::train)[0].size() % 3, 0u);
  EXPECT_EQ(documents_in(*corpus, Split::validation)[0][0], '\xe2');
}

TEST_F(CorpusBuild, ManyDocumentsAreSplitWhole) {
  const std::vector<std::string> documents = some_documents(3000, 2);
  put_jsonl(directory_ / "d.jsonl", documents);
  const CorpusBuildResult result = build(directory_ / "c", {directory_ / "d.jsonl"}, 20000, 0.05);
  EXPECT_TRUE(result.split_by_document);
  const auto corpus = Corpus::open(directory_ / "c");
  EXPECT_GT(corpus->manifest().train.shards.size(), 10u);
  const auto train = documents_in(*corpus, Split::train), validation = documents_in(*corpus, Split::validation);
  EXPECT_NEAR(static_cast<double>(validation.size()), 150, 45);
  std::multiset<std::string> both = as_set(train);
  both.merge(as_set(validation));
  EXPECT_EQ(both, as_set(documents));
  EXPECT_EQ(corpus->manifest().train.documents(), train.size());
  EXPECT_TRUE(verify_corpus(directory_ / "c", 10).empty());
}

TEST_F(CorpusBuild, TheSplitDoesNotDependOnTheOrder) {
  std::vector<std::string> documents = some_documents(500, 3);
  put_jsonl(directory_ / "d.jsonl", documents);
  std::reverse(documents.begin(), documents.end());
  put_jsonl(directory_ / "r.jsonl", documents);
  build(directory_ / "c", {directory_ / "d.jsonl"}, 1 << 20, 0.1);
  build(directory_ / "r", {directory_ / "r.jsonl"}, 1 << 20, 0.1);
  const auto one = Corpus::open(directory_ / "c"), other = Corpus::open(directory_ / "r");
  EXPECT_EQ(as_set(documents_in(*one, Split::validation)), as_set(documents_in(*other, Split::validation)));
}

TEST_F(CorpusBuild, ValidationIsNeverEmpty) {
  for (const size_t count : {1u, 2u, 99u, 100u, 101u, 130u}) {
    put_jsonl(directory_ / "d.jsonl", some_documents(count, static_cast<unsigned>(count)));
    const fs::path out = directory_ / ("c" + std::to_string(count));
    const CorpusBuildResult result = build(out, {directory_ / "d.jsonl"}, 1 << 20, 1e-6);
    EXPECT_EQ(result.split_by_document, count >= 100) << count;
    EXPECT_GT(result.manifest.validation.bytes(), 0u) << count;
    EXPECT_GT(result.manifest.train.bytes(), 0u) << count;
  }
  put_jsonl(directory_ / "same.jsonl", std::vector<std::string>(500, "always the same"));
  const CorpusBuildResult same = build(directory_ / "same", {directory_ / "same.jsonl"});
  EXPECT_EQ(same.manifest.validation.bytes(), 750u);
}

TEST_F(CorpusBuild, TwiceGivesTheSameBytes) {
  put_jsonl(directory_ / "d.jsonl", some_documents(2000, 4));
  build(directory_ / "one", {directory_ / "d.jsonl"}, 50000);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // times are kept in seconds: none may be in a shard
  build(directory_ / "two", {directory_ / "d.jsonl"}, 50000);
  size_t files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_ / "one")) {
    EXPECT_TRUE(get(entry.path()) == get(directory_.path() / "two" / entry.path().filename())) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 6u);
}

TEST_F(CorpusBuild, NothingIsOverwritten) {
  put(directory_ / "a", some_text(1000, 5));
  build(directory_ / "c", {directory_ / "a"});
  EXPECT_EQ(outcome_of([&] { build(directory_ / "c", {directory_ / "a"}); }).code, ExitCode::cannot_create);
  EXPECT_TRUE(verify_corpus(directory_ / "c", 1).empty());
  fs::create_directory(directory_ / "mine");
  put(directory_ / "mine" / "train-00000.h5", "my own file");
  EXPECT_EQ(outcome_of([&] { build(directory_ / "mine", {directory_ / "a"}); }).code, ExitCode::cannot_create);
  EXPECT_EQ(get(directory_ / "mine" / "train-00000.h5"), "my own file");
}

TEST_F(CorpusBuild, AnUnfinishedBuildIsRefusedByReadersAndRepeated) {
  put(directory_ / "a", some_text(1000, 6));
  fs::create_directory(directory_ / "c");
  put(directory_ / "c" / kBuildMarker, "");
  put(directory_ / "c" / "train-00000.h5", "left over");
  put(directory_ / "c" / "train-00007.h5.partial", "left over");
  const Outcome outcome = outcome_of([&] { Corpus::open(directory_ / "c"); });
  EXPECT_EQ(outcome.code, ExitCode::missing_input);
  EXPECT_TRUE(outcome.says("never finished")) << outcome.message;
  build(directory_ / "c", {directory_ / "a"});
  EXPECT_TRUE(verify_corpus(directory_ / "c", 1).empty());
  EXPECT_FALSE(fs::exists(directory_ / "c" / "train-00007.h5.partial"));
}

TEST_F(CorpusBuild, BadOptionsAndInputs) {
  put(directory_ / "a", "x");
  put(directory_ / "b", some_text(100, 1));
  EXPECT_EQ(outcome_of([&] { build(directory_ / "c", {directory_ / "a"}); }).code, ExitCode::bad_data);
  EXPECT_EQ(outcome_of([&] { build(directory_ / "c", {directory_ / "b"}, 0); }).code, ExitCode::usage);
  for (const double share : {0.0, -1.0, 0.6, 1.0 / 0.0})
    EXPECT_EQ(outcome_of([&] { build(directory_ / "c", {directory_ / "b"}, 9, share); }).code, ExitCode::usage);
  EXPECT_FALSE(fs::exists(directory_ / "c"));
  EXPECT_EQ(outcome_of([&] { build(directory_ / "a" / "c", {directory_ / "b"}); }).code, ExitCode::cannot_create);
}

}  // namespace
}  // namespace capstan
