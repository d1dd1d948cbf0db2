// label: cpu
// Text is text: no text makes a special token unless it is asked for, in any model; and what added tokens do with their
// neighbours.
#include <gtest/gtest.h>

#include "io/tokenizer/pipeline.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;
using Ids = std::vector<uint32_t>;

/// Words and single letters; the special "</s>" is a piece of the model itself.
TokenizerSpec spec_of(ModelSpec model) {
  TokenizerSpec spec;
  spec.pieces = {"<unk>", "</s>", "<", "/", "s", ">", "a", "b", "ab", "\u2581"};
  spec.added = {{0, "<unk>", false, false, false, false, true}, {1, "</s>", false, false, false, false, true}};
  if (auto* unigram = std::get_if<UnigramParts>(&model)) unigram->scores.assign(spec.pieces.size(), -1.0);
  spec.model = std::move(model);
  spec.end_of_document = "</s>";
  return spec;
}

BpeParts bpe_that_makes_the_end() {
  BpeParts bpe;
  bpe.unknown = "<unk>";
  bpe.ignore_merges = true;
  return bpe;
}

TEST(TokenizerSpecial, NoModelMakesTheEndOfDocumentOutOfText) {
  UnigramParts unigram;
  unigram.unknown = 0;
  const std::pair<ModelSpec, Ids> models[] = {{unigram, {2, 3, 4, 5}},
                                              {bpe_that_makes_the_end(), {2, 3, 4, 5}},
                                              {WordPieceParts{"<unk>", "", 100}, {2, 3, 4, 5}},
                                              {WordLevelParts{"<unk>"}, {0}}};
  for (const auto& [model, wanted] : models) {
    const PipelineTokenizer tokenizer(spec_of(model), "test");
    EXPECT_EQ(tokenizer.encode("</s>"), wanted) << model.index();
    EXPECT_EQ(tokenizer.encode("</s>", {true}), Ids{1}) << model.index();
    EXPECT_EQ(tokenizer.decode(Ids{6, 1, 7}), model.index() == 0 ? "a b" : "a b");
    EXPECT_EQ(tokenizer.text_bytes(1), 0u);
  }
}

TEST(TokenizerSpecial, NormalizedTextMakesNoneEither) {
  TokenizerSpec spec = spec_of(bpe_that_makes_the_end());
  spec.normalizer.emplace_back(UnicodeForm{UnicodeForm::Form::nfkc});
  const PipelineTokenizer tokenizer(std::move(spec), "test");
  EXPECT_EQ(tokenizer.encode("\uFF1C/s\uFF1E"), (Ids{2, 3, 4, 5}));  // fullwidth signs become < and >
}

TEST(TokenizerSpecial, AMergeThatWouldMakeOneIsLeftOut) {
  BpeParts bpe;
  bpe.unknown = "<unk>";
  TokenizerSpec spec = spec_of(bpe);
  spec.pieces.insert(spec.pieces.end(), {"</", "s>"});
  std::get<BpeParts>(spec.model).merges = {{2, 3, 10}, {4, 5, 11}, {10, 11, 1}, {6, 7, 8}};
  const PipelineTokenizer tokenizer(std::move(spec), "test");
  EXPECT_EQ(tokenizer.encode("ab</s>"), (Ids{8, 10, 11}));
}

class AddedTokenFlags : public ::testing::Test {
 protected:
  Ids encode(const std::string& text, AddedToken token, bool special = true) {
    TokenizerSpec spec = spec_of(WordLevelParts{"<unk>"});
    spec.pre_tokenizer.emplace_back(WhitespaceSplit{});
    token.id = static_cast<uint32_t>(spec.pieces.size());
    spec.added.push_back(token);
    return PipelineTokenizer(std::move(spec), "test").encode(text, {special});
  }
};

TEST_F(AddedTokenFlags, LongestAndLeftmost) {
  EXPECT_EQ(encode("aXXb", {0, "XX"}), (Ids{6, 10, 7}));
  EXPECT_EQ(encode("aXXXb", {0, "XX"}), (Ids{6, 10, 0}));  // what is left, "Xb", is no word
}

TEST_F(AddedTokenFlags, SingleWord) {
  EXPECT_EQ(encode("a XX b", {0, "XX", true}), (Ids{6, 10, 7}));
  EXPECT_EQ(encode("aXX b", {0, "XX", true}), (Ids{0, 7}));
  EXPECT_EQ(encode("a XX1 b", {0, "XX", true}), (Ids{6, 0, 7}));
  EXPECT_EQ(encode("\u00e9XX", {0, "XX", true}), Ids{0});
  EXPECT_EQ(encode("(XX)", {0, "XX", true}), (Ids{0, 10, 0}));
}

TEST_F(AddedTokenFlags, SpacesAtTheSides) {
  TokenizerSpec spec = spec_of(UnigramParts{{}, 0, false});
  spec.pieces.emplace_back(" ");
  std::get<UnigramParts>(spec.model).scores.push_back(-1.0);
  spec.added.push_back({11, "XX", false, true, true});
  const PipelineTokenizer both(spec, "test");
  EXPECT_EQ(both.encode("a  XX\u3000 b"), (Ids{6, 11, 7}));
  spec.added.back() = {11, "XX", false, false, false};
  EXPECT_EQ(PipelineTokenizer(spec, "test").encode("a XX b"), (Ids{6, 10, 11, 10, 7}));
}

TEST_F(AddedTokenFlags, OrdinaryAddedTokensAreFoundInAllText) {
  EXPECT_EQ(encode("aXXb", {0, "XX"}, false), (Ids{6, 10, 7}));
  EXPECT_EQ(encode("aXXb", {0, "XX", false, false, false, false, true}, false), Ids{0});
}

TEST_F(AddedTokenFlags, NormalizedOnesAreFoundAfterNormalization) {
  TokenizerSpec spec = spec_of(WordLevelParts{"<unk>"});
  spec.normalizer.emplace_back(Lowercase{});
  spec.pre_tokenizer.emplace_back(WhitespaceSplit{});
  spec.added.push_back({10, "XX", false, false, false, true});
  spec.added.push_back({11, "YY", false, false, false, false});
  const PipelineTokenizer tokenizer(std::move(spec), "test");
  EXPECT_EQ(tokenizer.encode("A xX b"), (Ids{6, 10, 7}));
  EXPECT_EQ(tokenizer.encode("A yY b"), (Ids{6, 0, 7}));
  EXPECT_EQ(tokenizer.encode("A YY b"), (Ids{6, 11, 7}));
}

}  // namespace
}  // namespace capstan
