// label: cpu
// A stream in its steady state allocates nothing: every kind of order and objective, chunks that are read anew
// included.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <new>

#include "io/corpus/objective_masked.h"
#include "io/corpus/objective_prefix.h"
#include "io/corpus/objective_spans.h"
#include "io/corpus/stream.h"
#include "tests/io/corpus_testing.h"

namespace {

// All of this program's own: what HDF5 takes in C for a read is not ours.
std::atomic<uint64_t> allocations{0};
std::atomic<int64_t> live{0};

void* counted(size_t bytes) {
  ++allocations, ++live;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes); }
void* operator new[](size_t bytes) { return counted(bytes); }
void operator delete(void* memory) noexcept {
  live -= memory != nullptr;
  std::free(memory);
}
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory, size_t) noexcept { operator delete(memory); }

namespace capstan {
namespace {
using namespace testing_corpus;

class Allocation : public testing::Test {
 protected:
  Allocation() {
    std::vector<std::string> documents = some_documents(500, 40);
    documents.push_back(some_text(20000, 41));
    put_jsonl(directory_ / "a.jsonl", documents);
    build(directory_ / "a", {directory_ / "a.jsonl"}, 12000, 0.01);
    put_jsonl(directory_ / "b.jsonl", some_documents(200, 42));
    build(directory_ / "b", {directory_ / "b.jsonl"}, 40000, 0.03);  // holds more out: blanks in the first
    put(directory_ / "c", some_text(40000, 43));
    build(directory_ / "c-place", {directory_ / "c"});
  }
  std::vector<std::shared_ptr<const Corpus>> corpora(size_t count) const {
    std::vector<std::shared_ptr<const Corpus>> all;
    for (const char* name : {"a", "b", "c-place"})
      if (all.size() < count) all.push_back(Corpus::open(directory_ / name));
    return all;
  }
  /// Two epochs to warm up, then another: what was allocated in that one.
  static uint64_t steady(CorpusStream& stream, int64_t count = 4) {
    std::map<std::string, std::vector<char>> memory;
    SampleFields fields;
    for (const FieldSpec& field : stream.objective().fields(stream.context())) {
      auto& data = memory[std::string(field.name)];
      data.resize(static_cast<size_t>(field.elements * count) * 4);
      fields.set(field.name, data.data());
    }
    const uint64_t epoch = stream.samples_per_epoch();
    uint64_t at = 0, before = 0;
    const auto read_until = [&](uint64_t end) {
      for (; at < end; at += static_cast<uint64_t>(count)) {
        stream.fill(at, count, fields);
        stream.prefetch(at + static_cast<uint64_t>(count), count);
      }
    };
    read_until(2 * epoch);
    before = allocations;
    read_until(3 * epoch);
    return allocations - before;
  }
  TemporaryDirectory directory_;
};

TEST_F(Allocation, ItCounts) {
  const uint64_t before = allocations;
  const auto text = std::make_unique<std::string>(100, 'x');
  EXPECT_EQ(allocations - before, 2u) << text->size();
}

TEST_F(Allocation, OrdersAndPackings) {
  struct Kind {
    const char* name;
    size_t corpora;
    StreamOptions options;
  };
  const Kind kinds[] = {{"one corpus", 1, {}},
                        {"chunks read anew", 1, {.cache_bytes = 1}},
                        {"long blocks", 1, {.block = 320}},
                        {"blend", 3, {.blend = {.weights = {3, 2, 1}}}},
                        {"blend, chunks read anew", 3, {.cache_bytes = 1, .blend = {.weights = {3, 2, 1}}}},
                        {"best fit", 1, {.packing = Packing::best_fit}},
                        {"best fit, chunks read anew", 1, {.cache_bytes = 1, .packing = Packing::best_fit}},
                        {"blend of best fit", 3, {.packing = Packing::best_fit, .blend = {.weights = {1, 1, 1}}}}};
  for (const Kind& kind : kinds) {
    CorpusStream stream(corpora(kind.corpora), Split::train, 64, 3, kind.options);
    EXPECT_EQ(steady(stream), 0u) << kind.name;
  }
  CorpusStream validation(corpora(3), Split::validation, 64, 3);
  EXPECT_EQ(steady(validation), 0u);
}

TEST_F(Allocation, Objectives) {
  const ByteTokenizer tokenizer;
  std::vector<uint32_t> sentinels;
  for (uint32_t i = 0; i < 40; ++i) sentinels.push_back(200 + i);
  const std::pair<const char*, std::shared_ptr<const Objective>> objectives[] = {
      {"prefix", std::make_shared<PrefixObjective>(5)},
      {"masked", std::make_shared<MaskedObjective>(tokenizer, 5, MaskOptions{}, 255u, true)},
      {"words", std::make_shared<MaskedObjective>(tokenizer, 5, MaskOptions{.units = MaskUnits::word}, 255u, true)},
      {"spans masked",
       std::make_shared<MaskedObjective>(tokenizer, 5, MaskOptions{.units = MaskUnits::span}, 255u, true)},
      {"span corruption", std::make_shared<SpanObjective>(sentinels, 5, 0.15, 3.0)}};
  for (const auto& [name, objective] : objectives) {
    CorpusStream stream(corpora(3), Split::train, 64, 3, {.blend = {.weights = {3, 2, 1}}}, objective);
    EXPECT_EQ(steady(stream), 0u) << name;
  }
}

// More shards than are kept open: opening one again takes memory and gives it back.
TEST_F(Allocation, ManyShardsTakeNoMoreMemoryInTheEnd) {
  build(directory_ / "many", {directory_ / "a.jsonl"}, 4000, 0.01);
  const auto corpus = Corpus::open(directory_ / "many");
  ASSERT_GT(corpus->manifest().train.shards.size(), 20u);
  CorpusStream stream({corpus}, Split::train, 64, 3, {.cache_bytes = 1});
  std::vector<int32_t> tokens(64 * 4);
  const SampleFields fields = SampleFields().set("tokens", tokens.data());
  const uint64_t batches = stream.samples_per_epoch() / 4;
  std::vector<int64_t> after;
  for (uint64_t part = 0; part < 3; ++part) {
    const uint64_t before = allocations;
    for (uint64_t k = part * batches; k < (part + 1) * batches; ++k) stream.fill(k * 4, 4, fields);
    EXPECT_GT(allocations - before, batches);  // shards are opened all the time
    stream.fill(0, 4, fields);
    after.push_back(live);
  }
  EXPECT_NEAR(static_cast<double>(after[2]), static_cast<double>(after[1]), 40);
}

}  // namespace
}  // namespace capstan
