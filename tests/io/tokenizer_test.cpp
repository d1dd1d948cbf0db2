// label: cpu
// The byte tokenizer, its file, and what a damaged tokenizer.json is told.
#include "io/tokenizer/byte_tokenizer.h"

#include <gtest/gtest.h>

#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

TEST(ByteTokenizer, EveryByteComesBack) {
  const ByteTokenizer tokenizer;
  std::string all;
  for (int c = 0; c < 256; ++c) all.push_back(static_cast<char>(c));
  const std::vector<uint32_t> tokens = tokenizer.encode(all);
  ASSERT_EQ(tokens.size(), 256u);
  EXPECT_EQ(tokens[200], 200u);
  EXPECT_EQ(tokenizer.decode(tokens), all);
  EXPECT_EQ(tokenizer.vocabulary(), 257u);
  EXPECT_EQ(tokenizer.end_of_document(), 256u);
}

TEST(ByteTokenizer, EndOfDocumentHasNoText) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.decode(std::vector<uint32_t>{104, 256, 105}), "hi");
  EXPECT_EQ(tokenizer.text_bytes(255), 1u);
  EXPECT_EQ(tokenizer.text_bytes(256), 0u);
  const Outcome outcome = outcome_of([&] { tokenizer.decode(std::vector<uint32_t>{1, 257}); });
  EXPECT_EQ(outcome.code, ExitCode::bad_data);
  EXPECT_TRUE(outcome.says("257"));
}

TEST(ByteTokenizer, EncodeAppends) {
  std::vector<uint32_t> tokens{7};
  ByteTokenizer().encoder()->encode("a", true, tokens);
  EXPECT_EQ(tokens, (std::vector<uint32_t>{7, 97}));
}

TEST(Tokenizer, SavedAndLoadedIsTheSame) {
  const TemporaryDirectory directory;
  const ByteTokenizer tokenizer;
  tokenizer.save(directory.path());
  for (const fs::path& path : {directory.path(), directory / "tokenizer.json"})
    EXPECT_EQ(load_tokenizer(path)->hash(), tokenizer.hash());
  EXPECT_EQ(tokenizer.hash(), "bec11475413018330bef5e69d0fcecf8");  // in every corpus and checkpoint: may not change
  EXPECT_EQ(tokenizer_from_name("bytes")->name(), "bytes");
}

TEST(Tokenizer, BadFilesAreRefused) {
  const TemporaryDirectory directory;
  EXPECT_EQ(outcome_of([&] { load_tokenizer(directory / "none.json"); }).code, ExitCode::missing_input);
  EXPECT_EQ(outcome_of([&] { tokenizer_from_name("no-such-tokenizer"); }).code, ExitCode::missing_input);
  for (const char* text : {"", "{", "[]", "{\"type\": 3}", "{\"type\": \"unknown\"}", "{\"type\": \"bytes\"}",
                           "{\"type\": \"bytes\", \"vocabulary\": 258, \"end_of_document\": 256}",
                           "{\"type\": \"bytes\", \"vocabulary\": 257, \"vocabulary\": 257, \"end_of_document\": 256}",
                           "{\"type\": \"bytes\", \"vocabulary\": 2.57e2, \"end_of_document\": 256}",
                           "{\"type\": \"bytes\", \"vocabulary\": -257, \"end_of_document\": 256}"}) {
    put(directory / "t.json", text);
    const Outcome outcome = outcome_of([&] { load_tokenizer(directory / "t.json"); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << text;
    EXPECT_TRUE(outcome.says("t.json")) << outcome.message;
  }
}

}  // namespace
}  // namespace capstan
