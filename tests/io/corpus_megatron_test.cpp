// label: cpu
// Megatron-LM datasets: imported token for token, and every lie of an index or a token refused with its place.
#include <gtest/gtest.h>

#include <cstring>

#include "io/corpus/corpus_text.h"
#include "io/corpus/digest.h"
#include "io/corpus/megatron_index.h"
#include "io/corpus/shard.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

constexpr int64_t kEnd = ByteTokenizer::kEndOfDocument;
using Sequence = std::vector<int64_t>;
using Documents = std::vector<std::vector<Sequence>>;

template <typename T>
void add(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void add_token(std::string& out, MegatronType type, int64_t id) {
  switch (type) {
    case MegatronType::u8:
      return add(out, static_cast<uint8_t>(id));
    case MegatronType::i8:
      return add(out, static_cast<int8_t>(id));
    case MegatronType::i16:
      return add(out, static_cast<int16_t>(id));
    case MegatronType::u16:
      return add(out, static_cast<uint16_t>(id));
    case MegatronType::i32:
      return add(out, static_cast<int32_t>(id));
    case MegatronType::i64:
      return add(out, id);
  }
}

/// What an index says; a test changes it before it is written.
struct Index {
  std::string magic{kMegatronMagic};
  uint64_t version = 1;
  uint8_t code = static_cast<uint8_t>(MegatronType::u16);
  std::vector<int32_t> lengths;
  std::vector<int64_t> pointers, documents{0};
  std::string tail;

  std::string bytes() const {
    std::string out = magic;
    add(out, version);
    add(out, code);
    add(out, uint64_t{lengths.size()});
    add(out, uint64_t{documents.size()});
    for (const int32_t length : lengths) add(out, length);
    for (const int64_t pointer : pointers) add(out, pointer);
    for (const int64_t document : documents) add(out, document);
    return out + tail;
  }
};

Sequence ids_of(const std::string& text) {
  Sequence ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

class CorpusMegatron : public testing::Test {
 protected:
  fs::path data() const { return directory_ / "set_text_document.bin"; }
  fs::path index_file() const { return directory_ / "set_text_document.idx"; }

  Index write(const Documents& documents, MegatronType type = MegatronType::u16) {
    Index index;
    index.code = static_cast<uint8_t>(type);
    std::string bytes;
    for (const auto& document : documents) {
      for (const Sequence& sequence : document) {
        index.lengths.push_back(static_cast<int32_t>(sequence.size()));
        index.pointers.push_back(static_cast<int64_t>(bytes.size()));
        for (const int64_t id : sequence) add_token(bytes, type, id);
      }
      index.documents.push_back(static_cast<int64_t>(index.lengths.size()));
    }
    put(data(), bytes);
    put(index_file(), index.bytes());
    return index;
  }
  CorpusBuildResult import(const std::string& out, const fs::path& input, std::optional<InputFormat> format = {}) {
    CorpusBuildOptions options;
    options.out = directory_ / out;
    options.inputs = {input};
    options.documents.format = format;
    options.threads = 2;
    return build_corpus(options, ByteTokenizer());
  }
  void expect_refused(const std::string& word) {
    const Outcome outcome = outcome_of([&] { import("refused", data()); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << word;
    EXPECT_TRUE(outcome.says(word)) << outcome.message;
    EXPECT_TRUE(outcome.says("set_text_document")) << outcome.message;
    EXPECT_FALSE(fs::exists(directory_ / "refused" / kManifestName));
    fs::remove_all(directory_ / "refused");
  }

  TemporaryDirectory directory_;
};

TEST_F(CorpusMegatron, TheSameCorpusAsFromItsText) {
  const std::vector<std::string> texts = some_documents(700, 1);
  put_jsonl(directory_ / "a.jsonl", texts);
  build(directory_ / "text", {directory_ / "a.jsonl"});
  for (const MegatronType type : {MegatronType::i16, MegatronType::u16, MegatronType::i32, MegatronType::i64}) {
    Documents documents;
    for (const std::string& text : texts) {
      Sequence ids = ids_of(text);
      if (text.size() % 3 == 0) ids.push_back(kEnd);  // as --append-eod does
      documents.push_back({ids});
    }
    write(documents, type);
    const std::string out = fmt::format("import{}", static_cast<int>(type));
    import(out, data());
    for (const char* name : {"train-00000.h5", "validation-00000.h5", "manifest.json"})
      EXPECT_TRUE(get(directory_ / out / name) == get(directory_ / "text" / name)) << name;
  }
  import("by-prefix", directory_ / "set_text_document", InputFormat::megatron);
  import("by-index", index_file());
  EXPECT_EQ(get(directory_ / "by-index/manifest.json"), get(directory_ / "by-prefix/manifest.json"));
}

TEST_F(CorpusMegatron, DocumentsOfSeveralSequencesAndEndsInside) {
  Documents documents{{ids_of("one "), ids_of("two")}, {}, {{}}, {ids_of("three")}};
  Sequence inside = ids_of("four");
  inside.push_back(kEnd);
  for (const int64_t id : ids_of("five")) inside.push_back(id);
  documents.push_back({inside});
  documents.push_back({{kEnd}});
  documents.push_back({ids_of(std::string(400, 'z'))});
  write(documents);
  const CorpusBuildResult result = import("c", data());
  EXPECT_FALSE(result.split_by_document);
  EXPECT_EQ(result.empty_documents, 3u);
  const auto corpus = Corpus::open(directory_ / "c");
  const CorpusShard shard(corpus->directory(), corpus->manifest().train.shards[0], corpus->manifest());
  const std::vector<uint64_t> offsets = shard.read_document_offsets();
  EXPECT_EQ(std::vector<uint64_t>(offsets.begin(), offsets.begin() + 5), (std::vector<uint64_t>{0, 8, 14, 19, 24}));
  std::string text;
  for (const Split split : {Split::train, Split::validation})
    corpus_text(*corpus, split, [&](std::string_view part) { text += part; });
  EXPECT_EQ(text, "one twothreefourfive" + std::string(400, 'z'));
  EXPECT_TRUE(verify_corpus(directory_ / "c", 3).empty());
}

TEST_F(CorpusMegatron, ADocumentOfManyStretches) {
  const std::string large = some_text((9 << 20) + 5, 3);
  Documents documents;
  for (const std::string& text : some_documents(150, 2)) documents.push_back({ids_of(text)});
  documents.insert(documents.begin() + 70, {ids_of(large)});
  write(documents);
  import("c", data());
  const auto corpus = Corpus::open(directory_ / "c");
  EXPECT_EQ(corpus->manifest().train.documents() + corpus->manifest().validation.documents(), 151u);
  std::string text;
  for (const Split split : {Split::train, Split::validation})
    corpus_text(*corpus, split, [&](std::string_view part) { text += part; });
  EXPECT_NE(text.find(large), std::string::npos);
}

TEST_F(CorpusMegatron, TokensBeyondTheVocabularyAreRefusedWithTheirPlace) {
  Documents documents;
  for (const std::string& text : some_documents(200, 4)) documents.push_back({ids_of(text)});
  documents[150][0].back() = 257;
  uint64_t place = 0;
  for (size_t i = 0; i <= 150; ++i) place += documents[i][0].size();
  write(documents, MegatronType::i32);
  expect_refused(fmt::format("token {} (byte {}) has id 257, wanted below 257", place - 1, 4 * (place - 1)));
  documents[150][0].back() = -1;
  write(documents, MegatronType::i64);
  expect_refused("has id -1");
}

TEST_F(CorpusMegatron, EveryLieOfAnIndexIsRefused) {
  Documents documents;
  for (const std::string& text : some_documents(120, 5)) documents.push_back({ids_of(text)});
  const Index good = write(documents);
  const auto lie = [&](const std::string& word, const std::function<void(Index&)>& change) {
    Index index = good;
    change(index);
    put(index_file(), index.bytes());
    expect_refused(word);
  };
  lie("MMIDIDX", [](Index& i) { i.magic[3] = 'x'; });
  lie("wanted version 1, got 2", [](Index& i) { i.version = 2; });
  for (const int code : {0, 6, 7, 9, 200}) lie("code", [=](Index& i) { i.code = static_cast<uint8_t>(code); });
  lie("begins at byte", [](Index& i) { i.code = 4; });
  lie("begins at byte", [](Index& i) { i.pointers[3] += 2; });
  lie("begins at byte", [](Index& i) { i.pointers[0] = -2; });
  lie("tokens", [](Index& i) { i.lengths[5] = -3; });
  lie("byte", [](Index& i) { i.lengths.back() += 1; });
  lie("byte", [](Index& i) { i.lengths.back() -= 1; });
  lie("byte", [](Index& i) { i.lengths[0] = INT32_MAX; });
  lie("document", [](Index& i) { i.documents[0] = 1; });
  lie("document", [](Index& i) { std::swap(i.documents[4], i.documents[5]); });
  lie("document", [](Index& i) { i.documents.back() += 1; });
  lie("document", [](Index& i) { i.documents.back() -= 1; });
  lie("bytes", [](Index& i) { i.tail = "12345"; });
  lie("multimodal", [](Index& i) { i.tail = std::string(i.lengths.size(), '\0'); });
  lie("do not fit", [](Index& i) { i.documents.clear(); });
  std::string bytes = good.bytes();
  const uint64_t huge = uint64_t{1} << 61;
  for (const size_t field : {size_t{18}, size_t{26}}) {
    std::string bad = bytes;
    std::memcpy(bad.data() + field, &huge, 8);
    put(index_file(), bad);
    expect_refused("do not fit");
  }
  for (const size_t size : {size_t{0}, size_t{9}, size_t{33}, bytes.size() - 1}) {
    put(index_file(), bytes.substr(0, size));
    expect_refused("");
  }
  put(index_file(), bytes);
  put(data(), get(data()).substr(2));
  expect_refused("byte");
  fs::remove(index_file());
  EXPECT_EQ(outcome_of([&] { import("c", data(), InputFormat::megatron); }).code, ExitCode::missing_input);
}

}  // namespace
}  // namespace capstan
