// label: cpu
// The manifest: what it says comes back, what is out of order is refused with its byte, and 10,000 shards open fast.
#include <gtest/gtest.h>

#include <ctime>

#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

ShardRecord some_shard(const std::string& name, uint64_t i) {
  return {name, 50'000'000 + i, 1000 + i, 200'000'000, 32768, 120'000'000 + i, {i, 1}, {i, 2}, {i, 3}, 0, {}};
}

CorpusManifest some_manifest(size_t shards) {
  CorpusManifest manifest;
  manifest.tokenizer_name = "a \"name\" \xe2\x82\xac\n";
  manifest.tokenizer_hash = std::string(32, 'a');
  manifest.vocabulary = 50257;
  manifest.end_of_document = 50256;
  manifest.split_rule = {true, UINT64_MAX - 1, 0};
  for (size_t i = 0; i < shards; ++i) manifest.train.shards.push_back(some_shard(fmt::format("train-{:05}.h5", i), i));
  manifest.validation.shards.push_back(some_shard("validation-00000.h5", 7));
  return manifest;
}

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

TEST(CorpusManifestText, ComesBack) {
  for (const bool by_document : {true, false})
    for (const bool metadata : {true, false}) {
      CorpusManifest manifest = some_manifest(3);
      if (!by_document) manifest.split_rule = {false, 0, 12345};
      manifest.duplicates_dropped = metadata;
      if (metadata) manifest.metadata_fields = {"url", "a.b"};
      if (metadata)
        for (SplitRecord* split : {&manifest.train, &manifest.validation})
          for (ShardRecord& shard : split->shards) shard.metadata_size = 99, shard.metadata_digest = {5, 6};
      const std::string text = manifest.serialize();
      const CorpusManifest read = parse_manifest(text, "m");
      EXPECT_EQ(read.tokenizer_name, manifest.tokenizer_name);
      EXPECT_EQ(read.tokenizer_hash, manifest.tokenizer_hash);
      EXPECT_EQ(read.split_rule, manifest.split_rule);
      EXPECT_EQ(read.duplicates_dropped, manifest.duplicates_dropped);
      EXPECT_EQ(read.metadata_fields, manifest.metadata_fields);
      EXPECT_EQ(read.train, manifest.train);
      EXPECT_EQ(read.validation, manifest.validation);
      EXPECT_EQ(read.digest, manifest.digest);
    }
}

TEST(CorpusManifestText, VersionOneIsToldToBeBuiltAgain) {
  const Outcome old = outcome_of([] {
    parse_manifest("{\n  \"format\": \"capstan-corpus\",\n  \"format_version\": 1,\n  \"tokenizer\": {}}", "m");
  });
  EXPECT_EQ(old.code, ExitCode::bad_data);
  EXPECT_TRUE(old.says("wanted format version 2, got 1: build it again")) << old.message;
}

/// Texts whose digest is right and whose content is not.
TEST(CorpusManifestText, WhatIsOutOfOrderIsRefused) {
  const std::string good = some_manifest(2).serialize();
  const auto sealed = [](std::string text) {
    const size_t at = text.rfind("  \"digest\"");
    text.replace(at + 13, 32, digest128_of(std::string_view(text).substr(0, at)).hex());
    return text;
  };
  EXPECT_EQ(outcome_of([&] { parse_manifest(sealed(good), "m"); }).message, "");
  const auto change = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const Outcome outcome = outcome_of([&] { parse_manifest(sealed(text), "m"); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << from << " -> " << to;
  };
  change("\"vocabulary\"", "\"vocabulari\"");
  change("50257", "-1");
  change("50257", "050257");
  change("50257", "50257.0");
  change("50257", "5e4");
  change("50257", "99999999999999999999999");
  change("\"document\"", "\"size\"");
  change("false", "0");
  change("[]", "[1]");
  change("[]", "[\"url\"]");
  change("\"tokens\",", "\"token\",");
  change("train-00001.h5", "train-00000.h5");
  change("train-00001.h5", "a/b.h5");
  change("train-00001.h5", "..");
  change("train-00001.h5", "");
  change(",32768,", ",0,");
  change(",32768,", ",131073,");
  change("},\n  \"digest\"", ", \"more\": {}},\n  \"digest\"");
  change("]]}", "],]}");
  EXPECT_EQ(outcome_of([&] { parse_manifest(sealed(good) + "x", "m"); }).code, ExitCode::bad_data);
  for (size_t i = 0; i < good.size(); i += 3) {  // anything at all: an Error or a manifest, never worse
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    outcome_of([&] { parse_manifest(sealed(bad), "m"); });
  }
}

TEST(CorpusManifestText, TenThousandShardsOpenFast) {
  const std::string text = some_manifest(10000).serialize();
  double best = 1;
  for (int i = 0; i < 10; ++i) {
    const double begin = processor_seconds();
    EXPECT_EQ(parse_manifest(text, "m").train.shards.size(), 10000u);
    best = std::min(best, processor_seconds() - begin);
  }
  EXPECT_LT(text.size(), size_t{3} << 20);
  RecordProperty("parse_microseconds", static_cast<int>(best * 1e6));
  printf("10,000 shards: %.2f ms of processor time, %zu bytes\n", best * 1e3, text.size());
}

TEST(CorpusOpen, AMissingShardAmongManyIsFound) {
  TemporaryDirectory directory;
  put_jsonl(directory / "a.jsonl", some_documents(900, 1));
  build(directory / "c", {directory / "a.jsonl"}, 300);
  const auto corpus = Corpus::open(directory / "c");
  ASSERT_GT(corpus->manifest().train.shards.size(), 300u);
  const fs::path last = directory / "c" / corpus->manifest().train.shards.back().file;
  const std::string bytes = get(last);
  put(last, bytes.substr(1));  // beyond the shards whose size is looked at when a corpus is opened
  EXPECT_EQ(outcome_of([&] { Corpus::open(directory / "c"); }).message, "");
  EXPECT_TRUE(outcome_of([&] { Corpus::open(directory / "c")->check_sizes(); }).says("truncated"));
  fs::remove(last);
  EXPECT_EQ(outcome_of([&] { Corpus::open(directory / "c")->require_shards(); }).code, ExitCode::missing_input);
  put(directory / "elsewhere", bytes);
  fs::create_symlink(directory / "elsewhere", last);
  EXPECT_EQ(outcome_of([&] { Corpus::open(directory / "c")->require_shards(); }).code, ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
